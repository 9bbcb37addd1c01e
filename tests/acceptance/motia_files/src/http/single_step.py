"""1.0: one request, and an answer as an object."""

from typing import Any

from motia import ApiRequest, ApiResponse, FlowContext, http

config = {
    "name": "Single",
    "description": "One trigger",
    "triggers": [http("GET", "/v1/single/:id")],
    "enqueues": [],
    "flows": ["v1"],
}


async def handler(request: ApiRequest[Any], ctx: FlowContext[Any]) -> ApiResponse[Any]:
    ctx.logger.info("single", {"path": ctx.trigger.path})
    found = {"id": request.path_params["id"], "q": request.query_params.get("q"), "key": request.headers.get("x-key")}
    return ApiResponse(status=200, body=found, headers={"x-single": "1"})
