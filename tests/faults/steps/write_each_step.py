"""Do what the fault suite's step writer planned, every operation a commit of its own."""

config = {
    "type": "api",
    "name": "WriteEach",
    "description": "Sets, each in a transaction of its own",
    "method": "POST",
    "path": "/write-each",
    "transaction": False,
    "emits": [],
}


async def handler(req, context):
    for _, stream, group, id, data in req["body"]["plan"]:
        await context.streams[stream].set(group, id, data)
    return {"status": 200, "body": {}}
