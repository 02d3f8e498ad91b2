"""Time and memory of server, tuner and both together."""
