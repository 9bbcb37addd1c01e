"""A trigger that nobody knows."""

config = {"name": "Webhook", "triggers": [{"type": "webhook", "path": "/hook"}]}


async def handler(input, ctx):
    pass
