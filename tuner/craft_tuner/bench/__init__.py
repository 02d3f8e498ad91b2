"""`craft-tuner bench`: datasets x shots x seeds x methods as runs of their own, and their table."""
