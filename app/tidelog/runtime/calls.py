"""The calls on streams that a handler makes: begun when they are made, in their order, whether awaited or not.

Knows nothing of streams: a call is a coroutine, which waits for its turn on the step's connection before it first gives
way (see Turns: first come, first served). So calls take effect in the order in which they begin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from threading import get_ident
from typing import Any, NoReturn

from tidelog.errors import FORGOTTEN_AWAIT, StepEndedError

TASKS_KEPT_MAX = 64  # tasks kept for the end, before those that need no more looking after are sorted out


class Calls:
    """One run's calls. Motia makes a task of each, and its authors leave `await` out where they need no answer.

    A task, with its two turns of the event loop, is a twentieth of what a step takes of this process. So a call that is
    awaited at once, as most are, runs in the task that awaits it. What is not awaited by the next turn of the loop, and
    what is made while such calls run, gets a task of its own.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._thread = get_ident()
        self._queued: list[CallFuture] = []  # made, and not begun
        self._tasks: list[asyncio.Task[Any]] = []  # in their order; those that run, or failed and may be unseen
        self._limit = TASKS_KEPT_MAX
        self._is_to_begin = False
        self._is_ended = False

    def __call__(self, making: Coroutine[Any, Any, Any]) -> Call | Coroutine[Any, Any, Any]:
        """Take a call on. Raises StepEndedError after the end."""
        if get_ident() != self._thread:
            return self._make_later(making)
        if self._is_ended:
            making.close()
            raise StepEndedError
        call = Call(self, making, copy_context())
        self._queued.append(call)
        if not self._is_to_begin:
            self._is_to_begin = True
            self.loop.call_soon(self._begin_in_its_turn)
        return call

    @property
    def is_idle(self) -> bool:
        """Whether nothing that was made would be overtaken."""
        return not self._queued and (not self._tasks or self._are_over())

    async def settle(self) -> None:
        """Wait until all that was made is over; errors are not looked at."""
        self.begin()
        running = [task for task in self._tasks if not task.done()]
        if running:
            await asyncio.wait(running)

    async def finish(self) -> None:
        """The handler has returned: wait for its calls, and take no more. Raises the first error nobody looked at."""
        self._is_ended = True
        if self._queued or self._tasks:
            await self.settle()
            if (error := self._first_unseen()) is not None:
                raise error

    def discard(self) -> BaseException | None:
        """Break all calls off, as the step fails anyway; returns the first error that nobody looked at."""
        self._is_ended = True
        queued, self._queued = self._queued, []
        for call in queued:
            call.cancel()
        for task in self._tasks:
            if not task.done():
                task.cancel()
                task.add_done_callback(_look_at)
        return self._first_unseen()

    def is_next(self, call: CallFuture) -> bool:
        """Whether the call, which is awaited, may run there. If not, it and all before it are tasks from now on."""
        queued = self._queued
        if queued[0] is not call or (self._tasks and not self._are_over()):
            self.begin()
            return False
        del queued[0]
        return True

    def begin(self) -> None:
        queued, self._queued = self._queued, []
        for call in queued:
            self.look_after(call.begin())

    def look_after(self, task: asyncio.Task[Any]) -> None:
        self._tasks.append(task)
        if len(self._tasks) >= self._limit:
            self._sort_out()

    def forget(self, call: CallFuture) -> None:
        """It was cancelled before it began."""
        if call in self._queued:
            self._queued.remove(call)

    def _begin_in_its_turn(self) -> None:
        self._is_to_begin = False
        if self._queued:
            self.begin()

    async def _make_later(self, making: Coroutine[Any, Any, Any]) -> Any:
        """For `asyncio.run_coroutine_threadsafe`: a call begins in the loop only."""
        return await self(making)

    def _are_over(self) -> bool:
        self._sort_out()
        return all(task.done() for task in self._tasks)

    def _sort_out(self) -> None:
        self._tasks = [task for task in self._tasks if not task.done() or _is_unseen(task)]
        self._limit = max(TASKS_KEPT_MAX, 2 * len(self._tasks))

    def _first_unseen(self) -> BaseException | None:
        """Of the errors that nobody looked at; from now on all of them count as looked at."""
        unseen = [task.exception() for task in self._tasks if _is_unseen(task)]
        return unseen[0] if unseen else None


class CallFuture:
    """One call, which asyncio takes for a future, and which has a task's methods.

    It may be awaited, twice or not at all, cancelled, gathered, waited for. The future behind it is made when somebody
    asks for it: its task, or, if it runs in the task that awaits it, one for what else wants to know.
    """

    __slots__ = (
        "_callbacks",
        "_calls",
        "_context",
        "_driver",
        "_future",
        "_is_called_off",
        "_making",
        "_outcome",
        "_runner",
    )

    _asyncio_future_blocking = False  # what `asyncio.isfuture` looks for

    def __init__(self, calls: Calls, making: Coroutine[Any, Any, Any], context: Context) -> None:
        self._calls = calls
        self._context = context
        self._making: Coroutine[Any, Any, Any] | None = making  # until it begins
        self._future: asyncio.Future[Any] | None = None
        self._outcome: tuple[Any, BaseException | None] | None = None  # of one that had no task
        self._runner: asyncio.Task[Any] | None = None  # the task that awaits it, while it runs there
        self._is_called_off = False

    def begin(self) -> asyncio.Task[Any]:
        """As a task of its own, in the context of its caller."""
        making, self._making = self._making, None
        assert making is not None  # noqa: S101 - it is queued until it begins
        self._future = task = self._calls.loop.create_task(making, context=self._context)
        return task

    def __await__(self) -> Generator[Any, Any, Any]:
        if self._making is None or not self._calls.is_next(self):
            return (yield from self.future.__await__())
        making, self._making = self._making, None
        self._runner = asyncio.current_task()
        try:
            result = yield from making.__await__()
        except BaseException as error:
            self._end(None, error)
            raise
        self._end(result, None)
        return result

    @property
    def future(self) -> asyncio.Future[Any]:
        if self._making is not None:
            self._calls.begin()
        if self._future is None:
            self._future = self._calls.loop.create_future()
            self._resolve()
        return self._future

    def __getattr__(self, name: str) -> Any:
        """`done`, `result`, `exception` and whatever else its future has."""
        if name.startswith("_"):
            raise AttributeError(name)
        if not hasattr(asyncio.Task, name):
            raise AttributeError(f"a call on a stream has no {name!r}, and its answer may: {FORGOTTEN_AWAIT}")
        return getattr(self.future, name)

    def __getitem__(self, key: object) -> NoReturn:
        """What a dict or a list has, which is its answer."""
        raise TypeError(f"a call on a stream is not its answer, of which {key!r:.80} is asked: {FORGOTTEN_AWAIT}")

    def keys(self) -> NoReturn:
        """Asked for by `{**call}` and `dict(call)`."""
        raise TypeError(f"a call on a stream is not its answer: {FORGOTTEN_AWAIT}")

    def cancel(self, msg: Any | None = None) -> bool:
        """Like a task's: one that hasn't begun never does, one that runs is broken off."""
        if self._making is not None:
            self._calls.forget(self)
            self._making.close()
            self._making = None
        elif self._runner is not None:
            self._is_called_off = True
            return self._runner.cancel(msg)
        return self.future.cancel(msg)

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context | None = None) -> None:
        """Called with this call, which `asyncio.as_completed` goes by."""

        def call_back(_: object) -> None:
            callback(self)

        added: list[Any] = getattr(self, "_callbacks", [])
        self._callbacks = [*added, (callback, call_back)]
        self.future.add_done_callback(call_back, context=context)

    def remove_done_callback(self, callback: Callable[[Any], object]) -> int:
        added: list[Any] = getattr(self, "_callbacks", [])
        self._callbacks = [pair for pair in added if pair[0] != callback]
        return sum(self.future.remove_done_callback(call_back) for one, call_back in added if one == callback)

    # What makes a coroutine of it, for `asyncio.create_task` and task groups: these, and `close`.

    def send(self, value: Any) -> Any:
        return self._driven().send(value)

    def throw(self, *error: Any) -> Any:
        return self._driven().throw(*error)

    def _driven(self) -> Generator[Any, Any, Any]:
        driver: Generator[Any, Any, Any] | None = getattr(self, "_driver", None)
        if driver is None:
            self._driver = driver = self.__await__()
            task = asyncio.current_task()
            if task is not None and task.get_coro() is self:  # its error is the call's
                self._calls.look_after(task)
        return driver

    def _end(self, result: Any, error: BaseException | None) -> None:
        if self._is_called_off and self._runner is not None and isinstance(error, asyncio.CancelledError):
            self._runner.uncancel()  # not the task was meant, but what it awaits
        self._runner = None
        self._outcome = result, error
        if self._future is not None:
            self._resolve()

    def _resolve(self) -> None:
        if self._outcome is None or self._future is None or self._future.done():
            return
        result, error = self._outcome
        if error is None:
            self._future.set_result(result)
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._future.cancel()
        else:
            self._future.set_exception(error)
            self._future.exception()  # whoever awaited it has seen it


class Call(CallFuture):
    """A call as a handler gets it, which passes for a coroutine as well, where one is asked for.

    `asyncio.create_task` takes coroutines only and `asyncio.wait` everything but coroutines, and both find them by the
    methods that they have (collections.abc.Coroutine). But `wait` first collects what it gets in a set.
    """

    __slots__ = ()

    def close(self) -> None:
        self.cancel()

    def __hash__(self) -> int:
        self.__class__ = CallFuture  # type: ignore[assignment]
        return hash(self)


def _is_unseen(task: asyncio.Task[Any]) -> bool:
    """Whether it ended in an error that nobody got: by awaiting it, `result()` or `exception()`."""
    # What asyncio itself goes by when it logs "exception was never retrieved", which it doesn't once we have looked.
    return bool(task._log_traceback)


def _look_at(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
