"""What a handler of Motia 1.0 imports rather than taking it from its context. Outside of a step, an error says so.

To be awaited in async handlers; in plain ones they answer at once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from tidelog.errors import DeclarationError
from tidelog.model import edits
from tidelog.motia.configs import StreamConfig, given_in
from tidelog.motia.running import context_for, running_context

Data = TypeVar("Data")

_log = logging.getLogger("tidelog.steps")


class Stream(Generic[Data]):
    """A declared stream, by its name or its config. It has all that `context.streams.<name>` has.

    `set` and `update` answer {"old_value", "new_value"}, as in Motia 1.0.
    """

    def __init__(self, config: Any = None, *, stream_name: str | None = None) -> None:
        if isinstance(config, StreamConfig | Mapping):
            self.config = config
            stream_name = given_in(config).get("name")
        else:
            stream_name = config if stream_name is None else stream_name
            self.config = {"name": stream_name}
        if not isinstance(stream_name, str):
            raise DeclarationError(f"Stream(...) takes a stream's name, or its config, not {config!r:.80}")
        self.stream_name = stream_name

    def set(self, group_id: str, item_id: str, data: Any) -> Any:
        return self._calls().exchange(group_id, item_id, lambda _before: data)

    def update(self, group_id: str, item_id: str, ops: Any) -> Any:
        return self._calls().exchange(group_id, item_id, lambda before: edits.updated(before, ops), renews=False)

    def get(self, group_id: str, item_id: str) -> Any:
        return self._calls().get(group_id, item_id)

    def delete(self, group_id: str, item_id: str) -> Any:
        return self._calls().delete(group_id, item_id)

    def get_group(self, group_id: str) -> Any:
        return self._calls().get_group(group_id)

    list = get_group

    def list_groups(self) -> Any:
        return self._calls().list_groups()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._calls(), name)

    def _calls(self) -> Any:
        return context_for(f"Stream({self.stream_name!r})").streams[self.stream_name]


class StateManager:
    """`context.state` of the step that runs. `set` and `update` answer {"old_value", "new_value"}, as in Motia 1.0."""

    def set(self, group_id: str, key: str, value: Any) -> Any:
        return context_for("stateManager.set").state.replace(group_id, key, value)

    def update(self, group_id: str, key: str, ops: Any) -> Any:
        return context_for("stateManager.update").state.exchange_by(group_id, key, ops)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(context_for(f"stateManager.{name}").state, name)


class Logger:
    """`context.logger` of the step that runs; outside of one, the log of all steps."""

    def debug(self, message: str, data: Any = None) -> None:
        self._write(logging.DEBUG, message, data)

    def info(self, message: str, data: Any = None) -> None:
        self._write(logging.INFO, message, data)

    def warning(self, message: str, data: Any = None) -> None:
        self._write(logging.WARNING, message, data)

    warn = warning

    def error(self, message: str, data: Any = None) -> None:
        self._write(logging.ERROR, message, data)

    def _write(self, level: int, message: str, data: Any) -> None:
        context = running_context.get()
        if context is not None:
            getattr(context.logger, logging.getLevelName(level).lower())(message, data)
        else:
            _log.log(level, message, extra=None if data is None else {"data": data}, stacklevel=3)


def enqueue(event: Mapping[str, Any]) -> Any:
    """Emit {"topic", "data"}, once the step that runs has committed."""
    return context_for("enqueue").emit(event)


stateManager = StateManager()  # noqa: N816 - Motia's spelling
logger = Logger()
