"""PUT: get, and then set; 404 where there is none."""

config = {"type": "api", "name": "ChangeNote", "method": "PUT", "path": "/notes/:user/:id", "emits": []}


async def handler(req, context):
    user, id = req["pathParams"]["user"], req["pathParams"]["id"]
    note = await context.streams.note.get(user, id)
    if note is None:
        return {"status": 404, "body": {"error": "no such note"}}
    changed = await context.streams.note.set(user, id, {**note, **req["body"]})
    return {"status": 200, "body": changed}
