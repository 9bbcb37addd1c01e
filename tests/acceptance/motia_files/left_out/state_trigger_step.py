"""Changes of the state run no steps."""

from motia import state

config = {"name": "OnState", "triggers": [state(condition=lambda input, ctx: True)]}


async def handler(input, ctx):
    pass
