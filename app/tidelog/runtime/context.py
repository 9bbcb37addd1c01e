"""What a handler gets beside its request: streams, logger, trace id, and the database session.

Knows nothing of HTTP, and neither begins nor commits: the step does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from tidelog.errors import ItemInvalidError, NotSupportedError, StreamUnknownError
from tidelog.runtime.calls import Calls
from tidelog.runtime.names import NO_STREAMS, no_attribute
from tidelog.store.items import Items, Lend, recheck
from tidelog.store.session import LentSession

_log = logging.getLogger("tidelog.steps")


class About(Protocol):
    """For whom a context is, as far as it tells."""

    @property
    def name(self) -> str: ...

    @property
    def flows(self) -> Sequence[str]: ...


class Work(Protocol):
    """A step's work on the database, as far as a context uses it."""

    def lend(self, writes: bool) -> Any: ...

    @property
    def session(self) -> LentSession: ...


class StreamCalls:
    """`context.streams.<name>`. Every item is a dict with its `id`. The calls begin at once, like tasks."""

    __slots__ = ("_items", "_lend", "_run")

    def __init__(self, items: Items, lend: Lend, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._items = items
        self._lend = lend
        self._run = run  # Calls; or, for plain handlers, waits for the answer

    def get(self, group_id: str, id: str) -> Any:
        """The item, or None."""
        return self._run(self._items.get(self._lend, group_id, id))

    def set(self, group_id: str, id: str, data: Any) -> Any:
        """Create or replace the item; returns it as it is stored. Raises ItemInvalidError."""
        return self._run(self._items.set(self._lend, group_id, id, data))

    def delete(self, group_id: str, id: str) -> Any:
        """Delete the item; returns it as it was, or None."""
        return self._run(self._items.delete(self._lend, group_id, id))

    def get_group(self, group_id: str) -> Any:
        """All items of the group, oldest first."""
        return self._run(self._items.list(self._lend, group_id))

    getGroup = get_group  # noqa: N815 - Motia's spelling

    def send(self, channel: Mapping[str, Any], event: Mapping[str, Any]) -> Any:
        """Send `event`, {"type", "data"}, to the subscribers of `channel`, {"groupId", "id"?}."""
        return self._run(self._send(channel, event))

    if not TYPE_CHECKING:  # to type checkers it would say that there is everything

        def __getattr__(self, name: str) -> NoReturn:
            raise no_attribute(self, "a stream", name, ("get", "set", "delete", "get_group", "getGroup", "send"))

    async def _send(self, channel: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        if not isinstance(channel, Mapping) or "groupId" not in channel:
            raise ItemInvalidError(f'send: a channel is {{"groupId": ..., "id"?: ...}}, not {channel!r:.80}')
        if not isinstance(event, Mapping) or "type" not in event:
            raise ItemInvalidError(f'send: an event is {{"type": ..., "data": ...}}, not {event!r:.80}')
        await self._items.send(self._lend, channel["groupId"], channel.get("id"), event["type"], event.get("data"))


class Streams(Mapping[str, StreamCalls]):
    """`context.streams`: the declared streams, as attributes or by `["name"]`."""

    def __init__(self, items: Mapping[str, Items], lend: Lend, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._items = items
        self._lend = lend
        self._run = run

    def __getitem__(self, name: str) -> StreamCalls:
        items = self._items.get(name)
        if items is None:
            known = ", ".join(sorted(self._items)) or "none"
            hint = f". {NO_STREAMS[name]}" if name in NO_STREAMS else ""
            raise StreamUnknownError(f"no stream is named {name!r}; declared are: {known}{hint}")
        return StreamCalls(items, self._lend, self._run)

    def __getattr__(self, name: str) -> StreamCalls:
        if name.startswith("__"):  # Python's own questions, as copy and pickle ask them
            raise AttributeError(name)
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, name: object) -> bool:
        return name in self._items


class StepLogger:
    """`context.logger`: Python's logging under `tidelog.steps`; records have `step`, `trace_id`, `flows`, `data`."""

    __slots__ = ("_about",)

    def __init__(self, step: str, trace_id: str, flows: Sequence[str]) -> None:
        self._about = {"step": step, "trace_id": trace_id, "flows": flows}

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
        if _log.isEnabledFor(level):
            _log.log(level, message, extra=self._about if data is None else {**self._about, "data": data}, stacklevel=3)


class StepContext:
    """The second argument of a handler. Nothing of it can be used after the handler has returned."""

    def __init__(
        self,
        step: About,
        trace_id: str,
        items: Mapping[str, Items],
        work: Work,
        loop: asyncio.AbstractEventLoop,
        *,
        is_plain: bool,
        auth: Any = None,
    ) -> None:
        """A plain handler runs in a thread: there, calls on streams wait for their answer.

        `auth` is who sent the request, as the authentication says; None if it is anybody.
        """
        self.trace_id = self.traceId = trace_id
        self.auth = auth
        self.flows = list(step.flows)
        self.logger = StepLogger(step.name, trace_id, self.flows)
        self.calls = Calls(loop)
        self._run = _blocking(loop) if is_plain else self.calls
        self.streams = Streams(items, work.lend, self._run)
        self._work = work
        self._is_plain = is_plain

    @property
    def db(self) -> LentSession:
        """SQLAlchemy's session, in the step's transaction; see StepSession for what it refuses.

        Its statements come after the calls on streams that were made before, awaited or not. (What is executed on
        `await db.connection()`, and the end of a `begin_nested()`, come after the awaited ones.) Not to be used by
        several tasks at once, like any AsyncSession; beside calls on streams it may.
        """
        if self._is_plain:
            raise NotSupportedError("context.db is for async handlers: write `async def handler(req, context)`")
        session = self._work.session
        session.follow(self.calls)
        return session

    def recheck(self, *, subject: str | None = None, stream: str | None = None, group: str | None = None) -> Any:
        """Have the rules asked again, in every process and once this is committed, for the subscriptions that match.

        To be awaited. What isn't said matches all; what is denied then ends.
        """
        return self._run(recheck(self._work.lend, subject, stream, group))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise no_attribute(
                self, "a context", name, ("streams", "db", "auth", "logger", "recheck", "trace_id", "traceId", "flows")
            )

    @property
    def state(self) -> NoReturn:
        raise NotSupportedError(
            "context.state does not exist in Tidelog: keep state in a stream, or in a table by context.db"
        )

    def emit(self, *_: Any, **__: Any) -> NoReturn:
        raise NotSupportedError(
            "context.emit does not exist in Tidelog, which has API steps and no event steps: call the function, "
            "or write to a stream that the other part subscribes to"
        )


def _blocking(loop: asyncio.AbstractEventLoop) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    def run(call: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(call, loop).result()

    return run
