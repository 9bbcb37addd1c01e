import asyncio

from rules import is_owner


async def on_join(subscription, context, auth):
    """As Motia's: with a context."""
    await context.streams.open.set("present", subscription["groupId"], {"who": auth["subject"]})
    if subscription.get("id") == "raises":
        raise ValueError("the join fails")
    if subscription.get("id") == "hangs":
        await context.streams.open.send({"groupId": "present"}, {"type": "hangs"})
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                break
    return {"unauthorized": subscription.get("id") == "denied"}


def on_leave(subscription, context, auth):
    context.streams.open.delete("present", subscription["groupId"])
    context.logger.info("left", {"who": auth["subject"]})


config = {
    "name": "present",
    "schema": {"type": "object"},
    "canAccess": is_owner,
    "onJoin": on_join,
    "onLeave": on_leave,
}
