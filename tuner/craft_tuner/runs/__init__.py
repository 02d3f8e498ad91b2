"""Run directories: plan, journal, metrics, predictions and what made them."""
