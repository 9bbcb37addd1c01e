"""1.0: a condition of a request, async."""

from motia import ApiResponse, http


async def is_verified(request, ctx):
    return request.headers.get("x-verified") == "yes" and ctx.trigger.type == "http"


config = {"name": "Condition", "triggers": [http("GET", "/v1/condition", condition=is_verified)]}


async def handler(request, ctx):
    return ApiResponse(status=200, body={"verified": True})
