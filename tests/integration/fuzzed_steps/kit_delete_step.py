config = {"type": "api", "name": "KitDelete", "method": "DELETE", "path": "/kit/:group/:id", "emits": []}


def handler(req, context):
    return {"status": 200, "body": context.streams.kit.delete(req["pathParams"]["group"], req["pathParams"]["id"])}
