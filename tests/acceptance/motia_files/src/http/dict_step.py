"""1.0 without an import: triggers as dicts."""

config = {
    "name": "Dict",
    "triggers": [
        {"type": "http", "method": "POST", "path": "/v1/dict", "bodySchema": {"type": "object", "required": ["a"]}},
        {"type": "queue", "topic": "dict.said", "input": {"type": "object"}},
    ],
    "enqueues": ["dict.said"],
}


async def handler(input, ctx):
    if ctx.is_queue():
        await ctx.streams["seen"].set("dict", "queue", input)
        return None
    await ctx.enqueue({"topic": "dict.said", "data": ctx.get_data()})
    return {"status": 200, "body": {"a": input.body["a"]}}
