"""Query parameters, which the config describes, and headers both ways."""

config = {
    "type": "api",
    "name": "Search",
    "method": "GET",
    "path": "/search",
    "queryParams": [{"name": "q", "description": "what to look for"}],
    "emits": [],
}


async def handler(req, context):
    query = req["queryParams"]
    found = {"q": query.get("q"), "tags": query.get("tag", []), "agent": req["headers"].get("x-agent")}
    return {"status": 200, "body": found, "headers": {"x-found": "1"}}
