"""One command that measures the CUDA path, ready before a card is at hand; see check.py."""
