"""Heads on logits: residual (torch), linear, and how one is chosen."""
