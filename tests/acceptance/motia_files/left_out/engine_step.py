"""The engine of 1.0."""

from motia import get_instance, http

config = {"name": "Engine", "triggers": [http("GET", "/engine")]}


async def handler(request, ctx):
    get_instance().trigger({})
