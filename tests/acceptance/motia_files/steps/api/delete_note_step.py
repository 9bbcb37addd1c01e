"""DELETE, and an answer without a body."""

config = {"type": "api", "name": "DeleteNote", "method": "DELETE", "path": "/notes/:user/:id", "emits": []}


async def handler(req, context):
    await context.streams.note.delete(req["pathParams"]["user"], req["pathParams"]["id"])
    return {"status": 204}
