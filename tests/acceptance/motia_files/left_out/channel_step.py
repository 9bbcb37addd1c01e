"""An answer piece by piece."""

from motia import MotiaHttpArgs, http

config = {"name": "Channel", "triggers": [http("GET", "/channel")]}


async def handler(args: MotiaHttpArgs, ctx):
    args.response.close()
