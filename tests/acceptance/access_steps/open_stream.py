config = {"name": "open", "schema": {"type": "object"}}
