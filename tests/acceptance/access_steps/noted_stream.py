from rules import is_owner, note


async def on_join(subscription, auth):
    await note("join", subscription, auth)
    if subscription.get("id") == "forbidden":
        return {"unauthorized": True}
    if subscription.get("id") == "broken":
        raise ValueError("the join fails")
    return None


async def on_leave(subscription, auth):
    await note("leave", subscription, auth)


config = {"name": "noted", "schema": {"type": "object"}, "canAccess": is_owner, "onJoin": on_join, "onLeave": on_leave}
