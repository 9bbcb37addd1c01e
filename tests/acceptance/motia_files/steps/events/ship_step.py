"""An event whose schema is a pydantic class's, in the order of its group, by its queue's settings."""

from pydantic import BaseModel


class Packed(BaseModel):
    id: str


config = {
    "type": "event",
    "name": "Ship",
    "subscribes": ["order.packed"],
    "emits": [],
    "input": Packed.model_json_schema(),
    "infrastructure": {
        "handler": {"ram": 128, "timeout": 10},
        "queue": {"type": "fifo", "maxRetries": 2, "visibilityTimeout": 30, "delaySeconds": 0},
    },
}


async def handler(input, context):
    await context.streams.seen.set("ship", input["id"], {})
