from pydantic import BaseModel, Field


class Body(BaseModel):
    id: str
    name: str
    count: int
    price: float = 1.5
    nested: dict[str, list[int]] = Field(default_factory=dict)


config = {
    "type": "api",
    "name": "KitStrict",
    "method": "POST",
    "path": "/strict/:group",
    "emits": [],
    "bodySchema": Body,
}


async def handler(req, context):
    body = req["body"]
    item = {"name": body["name"], "count": body["count"], "tags": list(body["nested"])}
    item = await context.streams.strict.set(req["pathParams"]["group"], body["id"], item)
    await context.streams.strict.send({"groupId": req["pathParams"]["group"]}, {"type": "set", "data": body})
    return {"status": 201, "body": item}
