"""1.0: the same by `ctx.is_...()`."""

from motia import ApiResponse, FlowContext, http, queue

config = {"name": "ToldApart", "triggers": [queue("match.said"), http("GET", "/v1/told")], "enqueues": []}


async def handler(input, ctx: FlowContext):
    if ctx.is_queue():
        await ctx.state.set("told", str(input["n"]), {"n": input["n"]})
        return None
    if ctx.is_api():
        return ApiResponse(status=200, body={"told": [one["n"] for one in await ctx.state.list("told")]})
    raise AssertionError(ctx.is_cron() or ctx.is_stream() or ctx.is_state())
