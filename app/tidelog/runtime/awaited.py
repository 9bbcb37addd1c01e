"""Calls on streams outside of steps: they begin when they are awaited, as everything else does there."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

CALLS_KEPT_MAX = 64  # before those that have begun are sorted out

Call = Coroutine[Any, Any, Any]


@contextmanager
def awaited_calls() -> Iterator[AwaitedCalls]:
    """Raises RuntimeError at the end if a call was not awaited: it is not stored, of which Python would only warn."""
    calls = AwaitedCalls()
    try:
        yield calls
    finally:
        forgotten = calls.close()
    if forgotten:
        raise RuntimeError(
            f"calls on streams that were not awaited: {', '.join(forgotten[:5])}. Write `await`, in a function that is "
            "`async def`; without it nothing is stored"
        )


class AwaitedCalls:
    """Hands calls on as they are, and knows which of them never began."""

    def __init__(self) -> None:
        self._made: list[Call] = []
        self._limit = CALLS_KEPT_MAX

    def __call__(self, call: Call) -> Call:
        self._made.append(call)
        if len(self._made) >= self._limit:
            self._made = self._not_begun()
            self._limit = max(CALLS_KEPT_MAX, 2 * len(self._made))
        return call

    def close(self) -> list[str]:
        """The names of those that never began, and never will."""
        forgotten, self._made = self._not_begun(), []
        for call in forgotten:
            call.close()
        return [getattr(call, "__name__", "a call") for call in forgotten]

    def _not_begun(self) -> list[Call]:
        return [call for call in self._made if inspect.getcoroutinestate(call) == inspect.CORO_CREATED]
