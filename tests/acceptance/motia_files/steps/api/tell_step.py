"""An ephemeral event to a group's subscribers."""

config = {"type": "api", "name": "Tell", "method": "POST", "path": "/tell/:user", "emits": []}


async def handler(req, context):
    await context.streams.note.send({"groupId": req["pathParams"]["user"]}, {"type": "typing", "data": {"on": True}})
    return {"status": 200, "body": {}}
