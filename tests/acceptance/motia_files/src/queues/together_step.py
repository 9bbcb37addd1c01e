"""1.0: `multi_trigger_step`, all handlers together, one for the clock; some plain."""

from motia import StepConfig, cron, http, multi_trigger_step


async def _on_cron(ctx):
    await ctx.streams.seen.set("together", "cron", {})


together = multi_trigger_step(
    StepConfig(name="Together", triggers=[http("GET", "/v1/together"), cron("* * * * * *")])
).handlers({"http": lambda request, ctx: {"status": 200, "body": {"by": "http"}}, "cron": _on_cron})
config, handler = together.config, together.handler
