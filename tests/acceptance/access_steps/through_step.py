from litestar.exceptions import PermissionDeniedException


def only_ada(connection, _):
    if connection.user is None or connection.auth["subject"] != "ada":
        raise PermissionDeniedException("only ada")


async def outer(req, context, next_fn):
    if req["queryParams"].get("answer") == "early":
        return {"status": 418, "body": "answered before"}
    req["body"] = [*(req["body"] or []), "outer"]
    answer = await next_fn()
    answer["headers"] = {"x-outer": "yes"}
    return answer


async def inner(req, context, next_fn):
    req["body"].append("inner")
    context.seen = "by the handler, too"
    return await next_fn()


config = {
    "type": "api",
    "name": "Through",
    "method": "POST",
    "path": "/through",
    "middleware": [outer, inner],
    "guards": [only_ada],
    "emits": [],
}


async def handler(req, context):
    await context.streams.open.set("g", "through", {"seen": context.seen})
    return {"status": 200, "body": req["body"]}
