"""POST with a body's schema, a responseSchema by status, an item that is set."""

from pydantic import BaseModel


class AddNote(BaseModel):
    id: str
    text: str


class Added(BaseModel):
    id: str
    text: str


config = {
    "type": "api",
    "name": "AddNote",
    "description": "Adds a note",
    "method": "POST",
    "path": "/notes/:user",
    "bodySchema": AddNote.model_json_schema(),
    "responseSchema": {200: Added.model_json_schema(), 400: {"type": "object"}},
    "emits": [],
    "flows": ["notes"],
}


async def handler(req, context):
    body = req.get("body")
    note = await context.streams.note.set(req["pathParams"]["user"], body["id"], {"text": body["text"]})
    return {"status": 200, "body": note}
