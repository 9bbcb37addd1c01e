config = {
    "type": "api",
    "name": "KitSet",
    "method": "PUT",
    "path": "/kit/:group/:id",
    "emits": [],
    "bodySchema": {"type": "object"},
}


async def handler(req, context):
    at = req["pathParams"]
    return {"status": 200, "body": await context.streams.kit.set(at["group"], at["id"], req["body"])}
