config = {"name": "task", "schema": {"type": "object"}, "baseConfig": {"storageType": "default"}}
