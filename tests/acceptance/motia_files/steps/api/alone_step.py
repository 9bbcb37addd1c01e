"""A handler that takes the request alone."""

config = {"type": "api", "name": "Alone", "method": "GET", "path": "/alone", "emits": []}


async def handler(req):
    return {"status": 200, "body": {"method": "GET", "query": req["queryParams"]}}
