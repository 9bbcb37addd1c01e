"""Several topics; no schema; `virtualSubscribes`."""

config = {
    "type": "event",
    "name": "Audit",
    "subscribes": ["order.made", "order.big"],
    "virtualSubscribes": ["order.shown"],
    "emits": [],
}


async def handler(args, ctx):
    await ctx.streams.seen.update("audit", args["id"], [{"type": "increment", "path": "events", "by": 1}])
