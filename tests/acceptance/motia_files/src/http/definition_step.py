"""1.0: `step(config, handler)`, whose parts are the file's."""

from motia import ApiResponse, http, step


async def _handle(request, ctx):
    return ApiResponse(status=200, body={"by": ctx.trigger.type})


definition = step({"name": "Definition", "triggers": [http("GET", "/v1/definition")]}, _handle)
config, handler = definition.config, definition.handler
