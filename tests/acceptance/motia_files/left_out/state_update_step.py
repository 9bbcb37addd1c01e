"""An operation that the state hasn't."""

from motia import http

config = {"name": "StateUpdate", "triggers": [http("GET", "/state")]}


async def handler(request, ctx):
    await ctx.state.update("g", "k", [])
