"""Edit a message."""

from datetime import UTC, datetime

from pydantic import BaseModel, Field

from .chat_message_stream import ChatMessage


class Edit(BaseModel):
    text: str = Field(min_length=1, max_length=2000)


config = {
    "type": "api",
    "name": "EditMessage",
    "description": "Change the text of a message",
    "method": "PATCH",
    "path": "/chat/:room/messages/:id",
    "bodySchema": Edit.model_json_schema(),
    "responseSchema": {200: ChatMessage.model_json_schema()},
    "emits": [],
    "flows": ["chat"],
}


async def handler(req, context):
    room, id = req["pathParams"]["room"], req["pathParams"]["id"]
    message = await context.streams.chatMessage.get(room, id)
    if message is None:
        return {"status": 404, "body": {"error": {"code": "message_unknown", "message": f"no message {id}"}}}
    message |= {"text": req["body"]["text"], "editedAt": datetime.now(UTC)}
    return {"status": 200, "body": await context.streams.chatMessage.set(room, id, message)}
