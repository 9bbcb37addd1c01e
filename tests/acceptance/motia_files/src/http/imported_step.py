"""1.0: a stream that its file made, awaited."""

from motia import ApiRequest, ApiResponse, FlowContext, api
from streams.room_stream import rooms

config = {"name": "Imported", "triggers": [api("PUT", "/v1/rooms/:id")], "emits": []}


async def handler(request: ApiRequest, ctx: FlowContext) -> ApiResponse:
    id = request.path_params["id"]
    result = await rooms.set("all", id, {"topic": request.body["topic"]})
    stored = await rooms.get("all", id)
    assert result["new_value"] == stored
    return ApiResponse(status=200, body=result)
