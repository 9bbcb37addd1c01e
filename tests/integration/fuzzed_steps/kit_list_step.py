config = {
    "type": "api",
    "name": "KitList",
    "method": "GET",
    "path": "/kits",
    "emits": [],
    "queryParams": [{"name": "group", "description": ""}],
}


async def handler(req, context):
    group = req["queryParams"].get("group", "g")
    if not isinstance(group, str) or not group:
        return {"status": 400, "body": {"error": "name one group"}}
    return {"status": 200, "body": {"items": await context.streams.kit.get_group(group), "query": req["queryParams"]}}
