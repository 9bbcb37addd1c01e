"""1.0: a request, a queue and the clock, told apart by `ctx.match`."""

from motia import ApiRequest, ApiResponse, FlowContext, cron, http, queue

config = {
    "name": "Match",
    "triggers": [http("POST", "/v1/match"), queue("match.said"), cron("* * * * * * *")],
    "enqueues": ["match.said"],
}


async def handler(input, ctx: FlowContext):
    async def on_http(request: ApiRequest) -> ApiResponse:
        await ctx.enqueue({"topic": "match.said", "data": request.body})
        return ApiResponse(status=202, body=ctx.get_data())

    async def on_queue(data) -> None:
        await ctx.streams.seen.set("match", f"queue-{data['n']}", data)

    async def on_cron() -> None:
        await ctx.streams.seen.set("match", "cron", {"input": input})

    return await ctx.match({"http": on_http, "queue": on_queue, "cron": on_cron})
