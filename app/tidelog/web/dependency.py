"""`streams` for an application's own handlers: in the transaction of its session, or in one of their own."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from litestar.di import NamedDependency, Provide
from litestar.enums import ScopeType
from litestar.types import Scope
from sqlalchemy.ext.asyncio import AsyncSession

from tidelog.runtime.context import Streams
from tidelog.runtime.runner import Runtime
from tidelog.store.autocommit import StepAutocommit
from tidelog.store.borrowed import BorrowedWork
from tidelog.store.share import Share
from tidelog.store.transaction import StepTransaction

CALLS_KEPT_MAX = 64  # before those that have begun are sorted out


def streams_dependency(runtime: Runtime, session_name: str) -> Provide:
    """What provides them. With an AsyncSession by the name of `session_name` they are in its transaction.

    Without one a transaction begins at the first call, and is committed when the handler has returned and before the
    response is sent; an exception rolls it back. On a WebSocket, whose handler may run for days, every call commits.
    """
    share = Share(runtime.database.pool, runtime.settings.step_pool_share)

    async def provide(scope: Scope, **given: AsyncSession | None) -> AsyncGenerator[Streams, None]:
        session = given.get(session_name)
        calls = _Calls()
        if session is not None:
            try:
                yield Streams(runtime.items, BorrowedWork(session).lend, calls)
            finally:
                forgotten = calls.close()
            _refuse(forgotten)
            return
        is_socket = scope["type"] == ScopeType.WEBSOCKET
        work: StepAutocommit | StepTransaction = StepAutocommit(share) if is_socket else StepTransaction(share)
        try:
            yield Streams(runtime.items, work.lend, calls)
            _refuse(calls.close())
            await work.commit()
        except BaseException:
            calls.close()
            await work.rollback()
            raise

    # Litestar finds what a provider wants by the names of its parameters, and ours is not known before.
    wanted = NamedDependency[AsyncSession | None]
    parameters = [
        inspect.Parameter("scope", inspect.Parameter.KEYWORD_ONLY, annotation=Scope),
        inspect.Parameter(session_name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=wanted),
    ]
    returned = AsyncGenerator[Streams, None]
    provide.__signature__ = inspect.Signature(parameters, return_annotation=returned)  # type: ignore[attr-defined]
    provide.__annotations__ = {"scope": Scope, session_name: wanted, "return": returned}
    return Provide(provide)


class _Calls:
    """What a handler calls begins when it is awaited, as everything else in a handler of Litestar's.

    What it doesn't await is not stored, of which Python would only warn, and only if warnings are shown.
    """

    def __init__(self) -> None:
        self._made: list[Coroutine[Any, Any, Any]] = []
        self._limit = CALLS_KEPT_MAX

    def __call__(self, call: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
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

    def _not_begun(self) -> list[Coroutine[Any, Any, Any]]:
        return [call for call in self._made if inspect.getcoroutinestate(call) == inspect.CORO_CREATED]


def _refuse(forgotten: list[str]) -> None:
    if forgotten:
        raise RuntimeError(
            f"calls on streams that were not awaited: {', '.join(forgotten[:5])}. Write `await`, in a handler that is "
            "`async def`; without it nothing is stored"
        )
