"""Tell the room that somebody is typing: an ephemeral event, delivered and forgotten."""

from pydantic import BaseModel, Field


class Typing(BaseModel):
    author: str = Field(min_length=1, max_length=40)


config = {
    "type": "api",
    "name": "Typing",
    "description": "Tell the room that somebody is typing",
    "method": "POST",
    "path": "/chat/:room/typing",
    "bodySchema": Typing.model_json_schema(),
    "emits": [],
    "flows": ["chat"],
}


async def handler(req, context):
    channel = {"groupId": req["pathParams"]["room"]}
    await context.streams.chatMessage.send(channel, {"type": "typing", "data": {"author": req["body"]["author"]}})
    return {"status": 202, "body": {}}
