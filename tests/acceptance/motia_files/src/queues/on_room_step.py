"""1.0: the changes of a stream, with a condition, and an input of attributes."""

from motia import FlowContext, StreamTriggerInput, stream


def is_new(input: StreamTriggerInput, ctx: FlowContext) -> bool:
    return input.event.type == "create"


config = {
    "name": "OnRoom",
    "triggers": [stream("room", group_id="all", condition=is_new)],
    "enqueues": ["room.seen"],
}


async def handler(input: StreamTriggerInput, ctx: FlowContext) -> None:
    data = {"id": input.id, "stream": input.stream_name, "topic": input.event.data["topic"]}
    await ctx.enqueue({"topic": "room.seen", "data": data})
