"""What stands between an operator and a server that serves, tried without changing anything."""
