"""What the clock has emitted."""

config = {"type": "event", "name": "Ticked", "subscribes": ["ticked"], "emits": []}


async def handler(_input, context):
    await context.streams.seen.set("ticked", "last", {})
