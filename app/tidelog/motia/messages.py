"""What handlers of Motia 1.0 are given, and what they answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from pydantic.alias_generators import to_snake

Body = TypeVar("Body")

ApiRouteMethod = Literal["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]
TriggerInput = Any
TriggerCondition = Callable[[Any, Any], bool | Awaitable[bool]]
Enqueuer = Callable[[Any], Awaitable[None]]
ApiMiddleware = Callable[[Any, Any, Callable[[], Awaitable[Any]]], Awaitable[Any]]


@dataclass
class ApiRequest(Generic[Body]):
    """A request."""

    path_params: dict[str, str] = field(default_factory=dict)
    query_params: dict[str, Any] = field(default_factory=dict)
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    method: str = ""
    raw_body: str = ""
    auth: Any = None

    def get(self, key: str, default: Any = None) -> Any:
        """As of the dict that a request is in 0.17."""
        return getattr(self, to_snake(key), default)


@dataclass
class ApiResponse(Generic[Body]):
    """An answer."""

    status: int
    body: Any = None
    headers: dict[str, Any] = field(default_factory=dict)


class Input(dict[str, Any]):
    """A message, whose keys are attributes as well, in Python's spelling or Motia's."""

    def __getattr__(self, name: str) -> Any:
        for key in self:
            if name == key or to_snake(name) == to_snake(key):
                value = self[key]
                return Input(value) if isinstance(value, dict) and key == "event" else value
        raise AttributeError(name)


class StreamEvent(Input):
    """What happened: `type` (create, update or delete) and `data`."""


class StreamTriggerInput(Input):
    """A change: `timestamp`, `stream_name`, `group_id`, `id`, `event`."""


class StateTriggerInput(Input):
    """A change of the state: `group_id`, `item_id`, `old_value` and `new_value`, each None where there is none."""


@dataclass
class StreamSubscription:
    """What somebody subscribes to."""

    group_id: str
    id: str | None = None
