"""An item that is changed by operations."""

config = {"type": "api", "name": "Count", "method": "POST", "path": "/count", "emits": []}


async def handler(_req, context):
    counted = await context.streams.seen.update("count", "all", [{"type": "increment", "path": "n", "by": 2}])
    return {"status": 200, "body": counted}
