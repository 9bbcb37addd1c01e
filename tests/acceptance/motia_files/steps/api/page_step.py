"""A page."""

config = {"type": "api", "name": "Page", "method": "GET", "path": "/page", "emits": []}


async def handler(_req, _context):
    return {"status": 200, "body": "<h1>Notes</h1>", "headers": {"content-type": "text/html"}}
