"""A stream whose schema is written as a dict."""

config = {
    "name": "task",
    "description": "What is to be done",
    "schema": {
        "type": "object",
        "properties": {"title": {"type": "string"}, "done": {"type": "integer"}},
        "required": ["title"],
    },
    "baseConfig": {"storageType": "default"},
}
