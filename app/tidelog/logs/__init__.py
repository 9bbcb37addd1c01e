"""The server's own log, on standard error: how its lines look, and what they never have in them."""
