"""Paths that no step can have, as they are the server's own."""

from tidelog.model.trigger import HttpTrigger, shape_of

# They go before parameters of steps: `/:page` doesn't hide them.
SERVER_PATHS = (
    "/health/live",
    "/health/ready",
    "/streams",
    "/streams/:stream/groups",
    "/streams/:stream/items",
    "/streams/:stream/history",
    "/schema",
    "/schema/openapi.json",
    "/schema/openapi.yaml",
    "/schema/openapi.yml",
)


def is_reserved(trigger: HttpTrigger) -> bool:
    return any(trigger.shape == shape_of(path) for path in SERVER_PATHS)
