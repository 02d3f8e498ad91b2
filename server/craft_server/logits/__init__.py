"""A purchase of logits: price, payment, computation and what is disclosed to a key."""
