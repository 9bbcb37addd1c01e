"""Post a message: the step to copy from."""

import uuid
from datetime import UTC, datetime

from pydantic import BaseModel, Field

from .chat_message_stream import ChatMessage


class NewMessage(BaseModel):
    author: str = Field(min_length=1, max_length=40)
    text: str = Field(min_length=1, max_length=2000)


config = {
    "type": "api",
    "name": "PostMessage",
    "description": "Post a message to a room",
    "method": "POST",
    "path": "/chat/:room/messages",
    "bodySchema": NewMessage.model_json_schema(),
    "responseSchema": {201: ChatMessage.model_json_schema()},
    "emits": [],
    "flows": ["chat"],
}


async def handler(req, context):
    room, body = req["pathParams"]["room"], req["body"]
    message = await context.streams.chatMessage.set(
        room,
        str(uuid.uuid4()),
        {"author": body["author"], "text": body["text"], "sentAt": datetime.now(UTC)},
    )
    context.logger.info("message posted", {"room": room, "id": message["id"]})
    return {"status": 201, "body": message}
