"""1.0: two topics of one step, one of them with a condition."""

from motia import queue

config = {
    "name": "TwoTopics",
    "triggers": [queue("room.made"), queue("match.said", condition=lambda input, ctx: input["n"] > 1)],
}


async def handler(input, ctx):
    await ctx.streams.seen.set("two-topics", f"{ctx.trigger.topic}:{input.get('n', 0)}", {"index": ctx.trigger.index})
