"""An answer written word by word, each word seen at once, as one would stream a language model's.

There is no model here: `words_of_an_answer` stands in for one. Put your model's stream in its place.
"""

import asyncio
import uuid
from datetime import UTC, datetime

from pydantic import BaseModel, Field

SECONDS_BETWEEN_WORDS = 0.06


class Question(BaseModel):
    question: str = Field(min_length=1, max_length=500)


config = {
    "type": "api",
    "name": "Ask",
    "description": "Ask the bot; its answer grows in the room",
    "method": "POST",
    "path": "/chat/:room/ask",
    "transaction": False,  # every write commits by itself and is seen at once
    "bodySchema": Question.model_json_schema(),
    "emits": [],
    "flows": ["chat"],
}


async def words_of_an_answer(question):
    answer = (
        f"You asked: “{question}” I am no model, only a stand-in for one. But each of these words is a commit of its "
        "own in Postgres, and reached you a few milliseconds after it."
    )
    for word in answer.split():
        await asyncio.sleep(SECONDS_BETWEEN_WORDS)
        yield word


async def handler(req, context):
    room, id = req["pathParams"]["room"], str(uuid.uuid4())
    message = {"author": "bot", "text": "", "sentAt": datetime.now(UTC), "writing": True}
    await context.streams.chatMessage.set(room, id, message)
    try:
        async for word in words_of_an_answer(req["body"]["question"]):
            message["text"] = f"{message['text']} {word}".lstrip()
            await context.streams.chatMessage.set(room, id, message)
    finally:  # also when the model fails, or whoever asked closes the window: others are reading
        message = await context.streams.chatMessage.set(room, id, message | {"writing": False})
    return {"status": 200, "body": message}
