import asyncio


async def can_access(subscription, auth):
    if subscription["groupId"] == "hangs":
        await asyncio.sleep(3600)
    raise RuntimeError("the rule is broken, and says secret things")


config = {"name": "broken", "schema": {"type": "object"}, "canAccess": can_access}
