"""Calls that are not awaited, one by one and gathered: they take effect in their order."""

import asyncio

config = {"type": "api", "name": "Unawaited", "method": "POST", "path": "/unawaited", "emits": []}


async def handler(_req, context):
    seen = context.streams.seen
    seen.set("unawaited", "state", {"status": "writing"})
    await asyncio.gather(*(seen.set("unawaited", f"part-{number}", {"number": number}) for number in range(3)))
    await seen.set("unawaited", "state", {"status": "completed"})
    return {"status": 200, "body": {}}
