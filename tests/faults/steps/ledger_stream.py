"""One of the two streams of the fault suite. Every item carries the stamp of the write that made it."""

config = {
    "name": "ledger",
    "schema": {"type": "object", "properties": {"stamp": {"type": "string"}}, "required": ["stamp"]},
    "baseConfig": {"storageType": "default"},
}
