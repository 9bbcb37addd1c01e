"""1.0: middleware, which has the handler's request."""

from motia import ApiResponse, http


async def needs_key(request, ctx, next):
    if request.headers.get("x-key") != "open":
        return ApiResponse(status=401, body={"error": "no key"})
    request.headers["x-checked"] = "yes"
    return await next()


config = {"name": "Checked", "triggers": [http("GET", "/v1/checked", middleware=[needs_key])]}


async def handler(request, ctx):
    return ApiResponse(status=200, body={"checked": request.headers["x-checked"]})
