"""1.0: a handler that isn't async; streams, state and topics answer at once."""

from motia import ApiResponse, Stream, enqueue, http, logger, stateManager

desks = Stream("desk")
config = {"name": "PlainV1", "triggers": [http("POST", "/v1/plain")], "enqueues": ["room.made"]}


def handler(request, ctx):
    first = desks.set("plain", "one", {"n": 1})
    second = desks.update("plain", "one", [{"type": "increment", "path": "n", "by": 4}])
    stateManager.set("plain", "key", {"n": second["new_value"]["n"]})
    kept = stateManager.get("plain", "key")
    enqueue({"topic": "room.made", "data": {"id": "plain", "topic": "desks"}})
    logger.info("stored", kept)
    return ApiResponse(
        status=200,
        body={
            "first": first,
            "second": second,
            "kept": kept["n"],
            "items": len(desks.list("plain")),
            "groups": desks.list_groups(),
        },
    )
