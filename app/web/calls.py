"""The calls on streams that a handler makes: begun when they are made, in their order, whether awaited or not.

Knows nothing of streams: a call is a coroutine, which waits for its turn on the step's connection before it first gives
way (see Turns: first come, first served). So calls take effect in the order in which they begin, which is asyncio's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from threading import get_ident
from typing import Any

from app.errors import StepEndedError

CALLS_KEPT_MAX = 64  # calls kept for the end, before those that need no more looking after are sorted out


class Calls:
    """One run's calls. Each is a task, as in Motia, whose authors leave `await` out where they need no answer.

    (To run a call that is awaited at once in the task that awaits it gains nothing: to know that it was takes a future
    and a turn of the loop, which cost as much as a task does with uvloop, 4 microseconds.)
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = get_ident()
        self._made: list[CallTask] = []  # in their order; those that run, or failed and may not have been looked at
        self._limit = CALLS_KEPT_MAX
        self._is_ended = False

    def __call__(self, making: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        """Begin a call. Raises StepEndedError after the end."""
        if get_ident() != self._thread:
            return self._make_later(making)
        if self._is_ended:
            making.close()
            raise StepEndedError
        call = Call.of(making, self._loop)
        self._made.append(call)
        if len(self._made) >= self._limit:
            self._sort_out()
        return call

    @property
    def is_idle(self) -> bool:
        """Whether all that was made is over."""
        self._sort_out()
        return all(call.done() for call in self._made)

    async def settle(self) -> None:
        """Wait until all that was made is over; errors are not looked at."""
        running = [call.owner for call in self._made if not call.owner.done()]
        left = len(running)
        if not left:
            return
        settled = self._loop.create_future()

        def note(_: object) -> None:
            nonlocal left
            left -= 1
            if not left and not settled.done():
                settled.set_result(None)

        for one in running:
            one.add_done_callback(note)
        await settled

    async def finish(self) -> None:
        """The handler has returned: wait for its calls, and take no more. Raises the first error nobody looked at."""
        self._is_ended = True
        if any(not call.owner.done() or _is_unseen(call.owner) for call in self._made):
            await self.settle()
            if (error := self._first_unseen()) is not None:
                raise error

    def discard(self) -> BaseException | None:
        """Break all calls off, as the step fails anyway; answers the first error that nobody looked at."""
        self._is_ended = True
        for call in self._made:
            if not call.done():
                call.cancel()
                call.add_done_callback(_look_at)
        return self._first_unseen()

    async def _make_later(self, making: Coroutine[Any, Any, Any]) -> Any:
        """For `asyncio.run_coroutine_threadsafe`: a call begins in the loop only."""
        return await self(making)

    def _sort_out(self) -> None:
        self._made = [call for call in self._made if not call.owner.done() or _is_unseen(call.owner)]
        self._limit = max(CALLS_KEPT_MAX, 2 * len(self._made))

    def _first_unseen(self) -> BaseException | None:
        """Of the errors that nobody looked at; from now on all of them count as looked at."""
        unseen = [call.owner.exception() for call in self._made if _is_unseen(call.owner)]
        return unseen[0] if unseen else None


class CallTask(asyncio.Task[Any]):
    """The task of one call on a stream."""

    __slots__ = ("_driver", "owner")

    _driver: Generator[Any, Any, Any] | None
    owner: asyncio.Task[Any]  # whose error is to be looked at: another one's, if `asyncio.create_task` got the call


class Call(CallTask):
    """The task of one call, which passes for a coroutine as well: authors wrote `asyncio.create_task(streams.x.set())`.

    `create_task` takes coroutines only and `asyncio.wait` everything but coroutines, and both know them by the methods
    that they have (collections.abc.Coroutine). But `wait` first collects what it gets in a set.
    """

    __slots__ = ()

    @staticmethod
    def of(making: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> Call:
        call: Any = CallTask(making, loop=loop)
        call._driver = None
        call.owner = call
        call.__class__ = Call  # not before asyncio put it into a set of its own
        return call  # type: ignore[no-any-return]

    def __hash__(self) -> int:
        self.__class__ = CallTask  # type: ignore[assignment]
        return hash(self)

    def send(self, value: Any) -> Any:
        return self._driven().send(value)

    def throw(self, *error: Any) -> Any:
        return self._driven().throw(*error)

    def close(self) -> None:
        self.cancel()

    def _driven(self) -> Generator[Any, Any, Any]:
        if self._driver is None:
            self._driver = self.__await__()
            task = asyncio.current_task()
            if task is not None and task.get_coro() is self:
                self.owner = task
        return self._driver


def _is_unseen(task: asyncio.Task[Any]) -> bool:
    """Whether it ended in an error that nobody got: by awaiting it, `result()` or `exception()`."""
    # What asyncio itself goes by when it logs "exception was never retrieved", which it doesn't once we have looked.
    return bool(task._log_traceback)


def _look_at(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
