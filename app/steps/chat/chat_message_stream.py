"""The messages of all rooms; a room is a group."""

from datetime import datetime

from pydantic import BaseModel, Field


class ChatMessage(BaseModel):
    id: str
    author: str = Field(min_length=1, max_length=40)
    text: str = Field(max_length=20_000)
    sentAt: datetime  # noqa: N815 - JSON's habit
    editedAt: datetime | None = None  # noqa: N815
    writing: bool = False  # an answer that is not finished yet


config = {
    "name": "chatMessage",
    "schema": ChatMessage.model_json_schema(),
    "baseConfig": {"storageType": "default"},
}
