"""Searches of a prompt: CMA-ES, SPSA and the random projection."""
