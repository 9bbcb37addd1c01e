"""The embedded Postgres: its cluster, the OS user that it runs as. Knows nothing of streams."""
