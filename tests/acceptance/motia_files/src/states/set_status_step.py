"""1.0: the state's operations, from a handler that imports them; and a step that requests and the state make run."""

from motia import ApiRequest, ApiResponse, FlowContext, Stream, http, stateManager

config = {
    "name": "SetStatus",
    "triggers": [
        http("PUT", "/v1/status/:user"),
        {"type": "state", "condition": lambda input, ctx: ctx.is_state() and input["group_id"] == "counts"},
    ],
}


async def handler(input, ctx: FlowContext):
    return await ctx.match({"http": count, "state": note})


async def count(request: ApiRequest) -> ApiResponse:
    user = request.path_params["user"]
    answers = [await stateManager.set("users", user, {"status": status}) for status in request.body["statuses"]]
    answers.append(await stateManager.update("counts", user, [{"type": "increment", "path": "changes", "by": 2}]))
    await stateManager.delete("users", user)
    return ApiResponse(status=200, body={"answers": answers, "groups": await stateManager.list_groups()})


async def note(change) -> None:
    await Stream("seen").set("counted", change["item_id"], change["new_value"])
