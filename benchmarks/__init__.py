"""What is measured, never asserted: `python -m benchmarks` lists it and runs it."""
