"""A relative import, and a parameter that may be missing."""

from .shared.greeting import greet

config = {"type": "api", "name": "GreetRelative", "method": "GET", "path": "/greeting/:name?", "emits": []}


async def handler(req, _context):
    return {"status": 200, "body": {"said": greet(req["pathParams"].get("name", "you"))}}
