"""An event with a schema as a dict; it emits the next."""

config = {
    "type": "event",
    "name": "Pack",
    "subscribes": ["order.made"],
    "emits": ["order.packed"],
    "input": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
    "flows": ["orders"],
}


async def handler(input, context):
    await context.streams.seen.set("pack", input["id"], {"trace": context.trace_id})
    await context.emit({"topic": "order.packed", "data": {"id": input["id"]}})
