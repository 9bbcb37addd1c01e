"""A stream whose schema is a pydantic class's."""

from pydantic import BaseModel


class Note(BaseModel):
    text: str
    done: bool = False


config = {"name": "note", "schema": Note.model_json_schema(), "baseConfig": {"storageType": "default"}}
