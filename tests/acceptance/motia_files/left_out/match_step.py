"""1.0's context in a step of 0.17."""

config = {"type": "api", "name": "MatchOld", "method": "GET", "path": "/old", "emits": []}


async def handler(req, context):
    return await context.match({})
