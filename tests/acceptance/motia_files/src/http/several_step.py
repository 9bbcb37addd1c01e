"""1.0: several requests of one step."""

from motia import ApiResponse, http

config = {
    "name": "Several",
    "triggers": [http("GET", "/v1/several"), http("POST", "/v1/several"), http("PUT", "/v1/others/:id")],
}


async def handler(request, ctx):
    return ApiResponse(status=200, body={"method": ctx.trigger.method, "index": ctx.trigger.index})
