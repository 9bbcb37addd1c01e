"""Reads over HTTP: streams, their groups, items and history. Each answer is exactly as of a position."""
