"""The command line `craft-server`: options, commands and how they print."""
