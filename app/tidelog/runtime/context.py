"""What a handler gets beside its request: streams, logger, trace id, and the database session.

Knows nothing of HTTP, and neither begins nor commits: the step does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from tidelog.errors import NotSupportedError, StreamUnknownError
from tidelog.runtime.calls import Calls
from tidelog.runtime.emitting import Emitter, Emitting
from tidelog.runtime.names import NO_STREAMS, no_attribute
from tidelog.runtime.state_calls import StateCalls
from tidelog.runtime.stream_calls import StreamCalls
from tidelog.store.asking import Lend
from tidelog.store.context_state import ContextState
from tidelog.store.items import Items, recheck
from tidelog.store.session import LentSession

_log = logging.getLogger("tidelog.steps")


class About(Emitting, Protocol):
    """For whom a context is, as far as it tells."""

    @property
    def flows(self) -> Sequence[str]: ...


class Work(Protocol):
    """A step's work on the database, as far as a context uses it."""

    def lend(self, writes: bool) -> Any: ...

    @property
    def session(self) -> LentSession: ...


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
        state: ContextState,
        work: Work,
        loop: asyncio.AbstractEventLoop,
        *,
        is_plain: bool,
        auth: Any = None,
        emitter: Emitter,
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
        self.state = StateCalls(state, work.lend, self._run, trace_id)
        self._step = step
        self._emitter = emitter
        self._work = work
        self._is_plain = is_plain

    def emit(self, event: Mapping[str, Any]) -> Any:
        """Emit `event`, {"topic", "data", "messageGroupId"?}: every step that subscribes to the topic handles it, once
        this step has committed. Raises TopicUndeclaredError if the config's `emits` hasn't it.
        """
        return self._run(self._emitter.emit(event, self._work.lend, self.trace_id, self._step))

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
                self,
                "a context",
                name,
                ("streams", "state", "emit", "db", "auth", "logger", "recheck", "trace_id", "traceId", "flows"),
            )


def _blocking(loop: asyncio.AbstractEventLoop) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    def run(call: Coroutine[Any, Any, Any]) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(call, loop).result()
        call.close()  # it would wait for the loop that it stands in the way of
        raise NotSupportedError(
            "a function that is given to exchange() can't use the context: read what it needs before"
        )

    return run
