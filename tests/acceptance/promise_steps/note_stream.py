config = {"name": "note", "schema": {"type": "object"}, "baseConfig": {"storageType": "default"}}
