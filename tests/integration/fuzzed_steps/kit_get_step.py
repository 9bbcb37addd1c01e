config = {"type": "api", "name": "KitGet", "method": "GET", "path": "/kit/:group/:id", "emits": []}


async def handler(req, context):
    found = await context.streams.kit.get(req["pathParams"]["group"], req["pathParams"]["id"])
    return {"status": 200 if found else 404, "body": found}
