"""What the commands do; the only place that opens a terminal or starts a server."""
