"""A handler that isn't async: its calls answer at once."""

config = {"type": "api", "name": "Plain", "method": "POST", "path": "/plain", "emits": []}


def handler(req, context):
    context.streams.seen.set("plain", "one", {"said": req["body"]["say"]})
    return {"status": 200, "body": {"stored": context.streams.seen.get("plain", "one")["said"]}}
