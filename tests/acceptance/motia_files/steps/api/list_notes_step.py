"""GET with a path parameter; a group of items by Motia's spelling."""

config = {"type": "api", "name": "ListNotes", "method": "GET", "path": "/notes/:user", "emits": [], "flows": ["notes"]}


async def handler(req, context):
    notes = await context.streams.note.getGroup(req["pathParams"]["user"])
    context.logger.info("listed", {"count": len(notes)})
    return {"status": 200, "body": {"notes": notes}}
