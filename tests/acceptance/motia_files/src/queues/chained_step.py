"""1.0: `multi_trigger_step`, a handler after the other."""

from motia import ApiResponse, http, multi_trigger_step, queue


async def _on_http(request, ctx):
    return ApiResponse(status=200, body={"by": "http"})


async def _on_queue(data, ctx):
    await ctx.streams.seen.set("chained", str(data["n"]), data)


config = (
    multi_trigger_step({"name": "Chained", "triggers": [http("GET", "/v1/chained"), queue("match.said")]})
    .on_http(_on_http)
    .on_queue(_on_queue)
    .handlers()
)
