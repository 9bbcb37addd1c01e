"""An event loop in a thread of its own: what is done in it depends on no test's loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")


class LoopThread:
    """Runs coroutines one after the other; the caller waits, whether an event loop runs in its own thread or not."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "tidelog-testing")
        self._runner = asyncio.Runner()

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator[LoopThread]:
        """One that ends with the block."""
        thread = cls()
        try:
            yield thread
        finally:
            thread._thread.submit(thread._runner.close).result()
            thread._thread.shutdown()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """What the coroutine returns; raises what it raises. Blocks."""
        return self._thread.submit(self._runner.run, coroutine).result()

    @contextmanager
    def entered(self, manager: AbstractAsyncContextManager[Result]) -> Iterator[Result]:
        """Enter and leave an async context manager. Blocks."""
        result = self.run(_enter(manager))
        try:
            yield result
        finally:
            self.run(_leave(manager))

    @asynccontextmanager
    async def entered_beside(self, manager: AbstractAsyncContextManager[Result]) -> AsyncIterator[Result]:
        """The same in a coroutine, whose loop goes on meanwhile."""
        result = await asyncio.to_thread(self.run, _enter(manager))
        try:
            yield result
        finally:
            await asyncio.to_thread(self.run, _leave(manager))


async def _enter(manager: AbstractAsyncContextManager[Result]) -> Result:
    return await manager.__aenter__()


async def _leave(manager: AbstractAsyncContextManager[Any]) -> None:
    await manager.__aexit__(None, None, None)
