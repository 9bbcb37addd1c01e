config = {"name": "kit", "schema": {"type": "object"}}
