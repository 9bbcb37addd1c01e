"""The other stream of the fault suite. Every item carries the stamp of the write that made it."""

config = {
    "name": "shelf",
    "schema": {"type": "object", "properties": {"stamp": {"type": "string"}}, "required": ["stamp"]},
    "baseConfig": {"storageType": "default"},
}
