"""Calls authors' functions: async ones in the event loop, plain ones in threads, each within a time limit."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol, TypeVar

from tidelog.model.rule import Function

# Calls of one function that are under way. The others wait, and their time does not count: who comes with thousands
# after a restart is let in by and by, not refused. A plain one has half of the threads, so that another has some, too.
AT_ONCE_MAX = 64
PLAIN_AT_ONCE_MAX = 20
END_SECONDS = 5.0  # for what still runs when the process ends

# The same of those with a context, each of which may take a connection to the database: some of a step's share.
WITH_CONTEXT_AT_ONCE_MAX = 8

_T = TypeVar("_T")


class Threads(Protocol):
    """Where plain functions run."""

    async def run(self, name: str, call: Callable[[], _T]) -> _T:
        """What `call` returns, in a thread, when there is one. Cancelled, it lets go of the thread."""
        ...


class Contexts(Protocol):
    """What functions of streams get beside what they are asked: streams, the database, a logger."""

    def context(self, name: str, auth: Any, *, is_plain: bool) -> AbstractAsyncContextManager[Any]:
        """One for a call. What is done by it is committed at the end of the block, and undone by an exception."""
        ...


class AuthorFunctions:
    """Those of one process."""

    def __init__(self, threads: Threads, limit_seconds: float, contexts: Contexts | None = None) -> None:
        """Without `contexts` there is no function that takes one."""
        self._threads = threads
        self._limit_seconds = limit_seconds
        self._contexts = contexts
        self._tasks: set[asyncio.Task[Any]] = set()
        self._places: dict[Function, asyncio.Semaphore] = {}

    def open(self) -> None:
        """Work in another event loop than before: places are waited for in one."""
        self._places.clear()
        self._tasks.clear()

    async def ask(self, function: Function, *arguments: Any) -> Any:
        """What it answers. Raises what it raises, and TimeoutError; a function that goes on after that is let go of."""
        place = self._places.get(function)
        if place is None:
            count = AT_ONCE_MAX if function.is_async else PLAIN_AT_ONCE_MAX
            place = self._places[function] = asyncio.Semaphore(
                WITH_CONTEXT_AT_ONCE_MAX if function.takes_context else count
            )
        work = (
            self._call_with_context(function, *arguments)
            if function.takes_context
            else self._call(function, arguments[: function.arguments_max])
        )
        async with place:
            return await self.within_limit(work, function.name)

    def limited(self, ask: Callable[[Any], Coroutine[Any, Any, Any]], name: str) -> Callable[[Any], Awaitable[Any]]:
        """A function of ours, with the same limit."""

        async def ask_in_time(about: Any) -> Any:
            return await self.within_limit(ask(about), name)

        return ask_in_time

    async def within_limit(self, work: Coroutine[Any, Any, _T], name: str) -> _T:
        """What comes of it in time. A task of its own: one that swallows its cancellation must keep nobody waiting."""
        task = self.spawn(work)
        try:
            await asyncio.wait([task], timeout=self._limit_seconds)
        finally:
            if not task.done():
                task.cancel()
        if not task.done():
            raise TimeoutError(f"{name} took longer than TIDELOG_ACCESS_TIMEOUT_SECONDS ({self._limit_seconds:g} s)")
        if task.cancelled():
            raise RuntimeError(f"{name} was cancelled by its own doing")
        return task.result()

    def spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """A task that `close` waits for. Whatever it raises is no news to anybody who doesn't ask."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def close(self) -> None:
        """Wait for what runs, but not for ever."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=END_SECONDS)
        for task in self._tasks:
            task.cancel()

    async def _call_with_context(self, function: Function, subject: Any, auth: Any) -> Any:
        assert self._contexts is not None  # noqa: S101 - whoever declares streams has them
        is_plain = not function.is_async
        async with self._contexts.context(function.name, auth, is_plain=is_plain) as context:
            answer = await self._call(function, (subject, context, auth))
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # which the function has swallowed: its time was over
                raise asyncio.CancelledError
        return answer

    async def _call(self, function: Function, arguments: tuple[Any, ...]) -> Any:
        try:
            if function.is_async:
                answer = function.call(*arguments)
            else:
                answer = await self._threads.run(function.name, partial(_call_plain, function.call, arguments))
            if function.takes_context and not function.is_async and inspect.iscoroutine(answer):
                answer.close()  # its calls on streams would wait in the event loop, for the event loop
                raise RuntimeError(f"{function.name} returned a coroutine: write it as `async def`")
            return await _awaited(answer) if inspect.isawaitable(answer) else answer
        except SystemExit as error:  # in a task it would end the event loop
            raise RuntimeError(f"{function.name} called sys.exit(); that would stop the server") from error

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


def _call_plain(call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return call(*arguments)
    except StopIteration as error:  # a future can't hold it, and its caller would wait for ever
        raise RuntimeError("the function let a StopIteration out: next() without a default?") from error
