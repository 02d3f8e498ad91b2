"""The command line `craft-tuner`: options, and what is printed."""
