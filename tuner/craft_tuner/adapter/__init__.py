"""The adapter that a fit leaves and people deploy; numpy only."""
