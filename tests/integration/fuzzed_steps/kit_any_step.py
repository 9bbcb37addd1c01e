config = {"type": "api", "name": "KitAny", "method": "POST", "path": "/any", "emits": []}


async def handler(req, context):
    await context.streams.kit.set("any", "any", {"body": req["body"], "query": req["queryParams"]})
    return {"status": 200, "body": {"body": req["body"], "query": req["queryParams"]}}
