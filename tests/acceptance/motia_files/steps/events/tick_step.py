"""The clock, and a handler that takes the context."""

config = {"type": "cron", "name": "Tick", "cron": "* * * * * *", "emits": ["ticked"], "description": "each second"}


async def handler(context):
    await context.emit({"topic": "ticked", "data": {}})
