"""A time with a year."""

from motia import cron

config = {"name": "Yearly", "triggers": [cron("0 0 0 1 1 * 2030")]}


async def handler(input, ctx):
    pass
