"""1.0: `step(config).handle(handler)`, and nothing else."""

from motia import ApiResponse, StepConfig, http, step


async def _handle(_request, ctx):
    return ApiResponse(status=200, body={"by": ctx.trigger.type})


built = step(StepConfig(name="Builder", triggers=[http("GET", "/v1/builder")])).handle(_handle)
