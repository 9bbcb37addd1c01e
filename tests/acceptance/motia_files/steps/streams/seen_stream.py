"""Where the other files put what they have seen: a group for each of them."""

config = {"name": "seen", "schema": {"type": "object"}, "baseConfig": {"storageType": "default"}}
