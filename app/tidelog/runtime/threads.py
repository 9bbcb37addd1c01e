"""Threads for handlers without `async`: as many as are needed up to a limit, and none that is waited for in vain.

A thread can't be ended from outside. One whose request is over while it goes on is let go of, and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, ParamSpec, TypeVar

from tidelog.errors import ThreadsStuckError

RUNNING_MAX = 40  # handlers at a time; the others wait
STUCK_MAX = 40  # more threads, in place of those that were let go of: a thread is 8 MB of addresses, and little memory

_P = ParamSpec("_P")
_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class HandlerThreads:
    """Runs plain handlers. Not in the loop's own threads: DNS needs those."""

    def __init__(self, running_max: int = RUNNING_MAX, stuck_max: int = STUCK_MAX) -> None:
        self._running_max = running_max
        self._stuck_max = stuck_max
        self._threads_max = running_max + stuck_max
        self._threads = DaemonThreads(self._threads_max, "tidelog-step")
        self._stuck: dict[Future[Any], str] = {}  # to their names
        self.open()

    def open(self) -> None:
        """Work in another event loop than before: places are waited for in one."""
        self._places = asyncio.Semaphore(self._running_max)
        self._stuck = {job: name for job, name in self._stuck.items() if not job.done()}

    @property
    def trouble(self) -> str | None:
        """What readiness says when no thread is left."""
        if len(self._stuck) < self._threads_max:
            return None
        names = ", ".join(sorted(set(self._stuck.values())))
        return f"all {self._threads_max} threads for plain functions are held by some that do not end: {names}"

    async def run(self, name: str, call: Callable[[], _T]) -> _T:
        """What `call` returns, in a thread, when there is a place. Cancelled, it lets go of the thread.

        `name` is what the log calls it.

        Raises ThreadsStuckError if there will be no place.
        """
        if (trouble := self.trouble) is not None:
            raise ThreadsStuckError(trouble)
        await self._places.acquire()
        job = self._threads.submit(call)
        try:
            return await asyncio.wrap_future(job)
        finally:
            if job.done():
                self._places.release()
            else:
                self._let_go(name, job)

    def _let_go(self, name: str, job: Future[Any]) -> None:
        is_first = name not in self._stuck.values()
        self._stuck[job] = name
        gets_another = len(self._stuck) <= self._stuck_max
        if gets_another:
            self._places.release()
        if is_first or self.trouble:
            logger.warning(
                "%s goes on in a thread, though nobody waits for it any more; %d such threads, of at most %d",
                name,
                len(self._stuck),
                self._threads_max,
            )
        loop = asyncio.get_running_loop()
        job.add_done_callback(lambda job: _tell(loop, partial(self._note_end, job, gets_another)))

    def _note_end(self, job: Future[Any], got_another: bool) -> None:
        del self._stuck[job]
        if not got_another:
            self._places.release()


class DaemonThreads(ThreadPoolExecutor):
    """An executor whose threads the end of the process does not wait for, whatever they do."""

    def __init__(self, threads_max: int, name: str) -> None:
        super().__init__(threads_max, name)  # which asyncio asks for; the threads that it would make are never made
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._guard = Lock()
        self._threads_max = threads_max
        self._name = name
        self._made = 0
        self._unused = 0  # threads without a job; below 0: jobs without a thread
        self._is_shut = False

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        future: Future[_T] = Future()
        with self._guard:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._jobs.put((future, partial(fn, *args, **kwargs)))
            self._unused -= 1
            if self._unused < 0 and self._made < self._threads_max:
                self._made += 1
                self._unused += 1
                Thread(target=self._work, name=f"{self._name}_{self._made}", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs, and wait for none."""
        with self._guard:
            self._is_shut = True
            for _ in range(self._made):
                self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._do(*job)
            del job  # what it refers to is not needed while this waits for the next

    def _do(self, future: Future[Any], call: Callable[[], Any]) -> None:
        error: BaseException | None = None
        result = None
        is_wanted = future.set_running_or_notify_cancel()
        try:
            result = call() if is_wanted else None
        except BaseException as raised:
            error = raised
        with self._guard:
            self._unused += 1
        if error is not None:
            future.set_exception(error)
            del error  # it refers to this frame
        elif is_wanted:
            future.set_result(result)


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody counts any more
        loop.call_soon_threadsafe(callback)
