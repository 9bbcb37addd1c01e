"""A step that does what it is told, each operation a commit of its own."""

from .operations import run

config = {"type": "api", "name": "RunEach", "method": "POST", "path": "/run-each", "transaction": False}


async def handler(req, context):
    return await run(req["body"], context)
