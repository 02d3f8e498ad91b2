"""Predictions of an adapter: batches, accuracy and files of answers."""
