"""1.0: a queue, with a class for its input and settings."""

from motia import FlowContext, InfrastructureConfig, QueueConfig, queue
from pydantic import BaseModel


class Made(BaseModel):
    id: str
    topic: str


config = {
    "name": "RoomMade",
    "triggers": [
        queue(
            "room.made",
            input=Made,
            infrastructure=InfrastructureConfig(queue=QueueConfig(type="fifo", max_retries=1)),
        )
    ],
    "enqueues": [],
}


async def handler(input: Made, ctx: FlowContext) -> None:
    await ctx.streams.seen.set("room-made", input.id, {"topic": input.topic, "by": ctx.trigger.topic})
