"""A step that does what it is told, in one transaction."""

from .operations import run

config = {"type": "api", "name": "Run", "method": "POST", "path": "/run"}


async def handler(req, context):
    return await run(req["body"], context)
