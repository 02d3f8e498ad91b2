"""A purchase of logits: price, payment, computation and what a key is told."""
