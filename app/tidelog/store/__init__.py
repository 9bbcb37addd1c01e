"""Talking to Postgres: connections, items, the change log, snapshots. Knows nothing of HTTP or subscribers."""
