"""An import from a folder beside it."""

from shared.greeting import greet

config = {"type": "api", "name": "Greet", "method": "GET", "path": "/greet/:name", "emits": []}


async def handler(req, _context):
    return {"status": 200, "body": {"said": greet(req["pathParams"]["name"])}}
