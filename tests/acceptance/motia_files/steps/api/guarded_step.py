"""Middleware, of which one answers and one goes on."""

from middlewares.key import count, needs_key

config = {
    "type": "api",
    "name": "Guarded",
    "method": "GET",
    "path": "/guarded",
    "middleware": [needs_key, count],
    "emits": [],
}


async def handler(req, _context):
    return {"status": 200, "body": {"seen": req["seen"]}}
