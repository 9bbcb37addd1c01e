"""1.0: `ctx.match` with plain functions and a default."""

from motia import http, queue

config = {"name": "Default", "triggers": [queue("match.said"), http("GET", "/v1/default")]}


async def handler(input, ctx):
    return await ctx.match(
        {
            "http": lambda request: {"status": 200, "body": {"q": request.query_params.get("q")}},
            "default": lambda data: ctx.streams.seen.set("default", str(data["n"]), data),
        }
    )
