"""`ctx` of a handler of Motia 1.0: the step's context, and which trigger it runs for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tidelog.motia.calls import Stream
from tidelog.motia.messages import ApiRequest

Data = TypeVar("Data")

_SPELLINGS = {"http": ("http", "api"), "queue": ("queue", "event")}


@dataclass(frozen=True, slots=True)
class TriggerInfo:
    """The trigger, by its place in the config's `triggers`."""

    type: str
    index: int | None = None
    path: str | None = None
    method: str | None = None
    topic: str | None = None
    expression: str | None = None


class FlowStreams(Mapping[str, Stream[Any]]):
    """`ctx.streams`."""

    def __init__(self, declared: Mapping[str, Any]) -> None:
        self._declared = declared

    def __getitem__(self, name: str) -> Stream[Any]:
        self._declared[name]  # which says which there are
        return Stream(name)

    def __getattr__(self, name: str) -> Stream[Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._declared)

    def __len__(self) -> int:
        return len(self._declared)


class FlowContext(Generic[Data]):
    """It has what the context of any other step has (`db`, `auth`, `state`, ...), too."""

    def __init__(self, context: Any, trigger: TriggerInfo, input_value: Any, *, is_plain: bool) -> None:
        self.trigger = trigger
        self.input_value = input_value
        self.streams = FlowStreams(context.streams)
        self._context = context
        self._is_plain = is_plain

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._context, name)

    def enqueue(self, event: Mapping[str, Any]) -> Any:
        """Emit {"topic", "data"}, once this step has committed."""
        return self._context.emit(event)

    def is_http(self) -> bool:
        return self.trigger.type == "http"

    is_api = is_http

    def is_queue(self) -> bool:
        return self.trigger.type == "queue"

    def is_cron(self) -> bool:
        return self.trigger.type == "cron"

    def is_state(self) -> bool:
        return self.trigger.type == "state"

    def is_stream(self) -> bool:
        return self.trigger.type == "stream"

    def get_data(self) -> Any:
        """The body of a request, else the input; None of a tick."""
        return self.input_value.body if isinstance(self.input_value, ApiRequest) else self.input_value

    def match(self, handlers: Mapping[str, Callable[..., Any]]) -> Any:
        """What the handler for this trigger's type answers, or `default`'s; to be awaited in an async handler."""
        spellings = _SPELLINGS.get(self.trigger.type, (self.trigger.type,))
        found = next((handlers[key] for key in (*spellings, "default") if handlers.get(key)), None)
        if found is None:
            raise RuntimeError(
                f"ctx.match has no handler for {self.trigger.type}, only {', '.join(handlers) or 'none'}"
            )
        takes_none = self.is_cron() and found is not handlers.get("default")
        returned = found() if takes_none else found(self.input_value)
        return returned if self._is_plain else _awaited(returned)


async def _awaited(returned: Any) -> Any:
    return await returned if inspect.isawaitable(returned) else returned
