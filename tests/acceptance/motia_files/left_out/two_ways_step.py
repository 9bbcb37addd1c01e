"""Both generations at once."""

from motia import http

config = {"type": "api", "name": "TwoWays", "triggers": [http("GET", "/two")]}


async def handler(request, ctx):
    pass
