config = {"type": "api", "name": "Who", "method": "GET", "path": "/who", "emits": []}


async def handler(req, context):
    return {"status": 200, "body": [req["auth"], context.auth]}
