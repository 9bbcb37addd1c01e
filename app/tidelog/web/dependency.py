"""`streams` for an application's own handlers: in the transaction of its session, or in one of their own."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from litestar.di import NamedDependency, Provide
from sqlalchemy.ext.asyncio import AsyncSession

from tidelog.runtime.context import Streams
from tidelog.runtime.runner import Runtime
from tidelog.store.borrowed import BorrowedWork
from tidelog.store.share import Share
from tidelog.store.transaction import StepTransaction


def streams_dependency(runtime: Runtime, session_name: str) -> Provide:
    """What provides them. With an AsyncSession by the name of `session_name` they are in its transaction.

    Without one a transaction begins at the first call, and is committed when the handler has returned and before the
    response is sent; an exception rolls it back.
    """
    share = Share(runtime.database.pool, runtime.settings.step_pool_share)

    async def provide(**given: AsyncSession | None) -> AsyncGenerator[Streams, None]:
        session = given.get(session_name)
        if session is not None:
            yield Streams(runtime.items, BorrowedWork(session).lend, _as_it_is)
            return
        work = StepTransaction(share)
        try:
            yield Streams(runtime.items, work.lend, _as_it_is)
        except BaseException:
            await work.rollback()
            raise
        try:
            await work.commit()
        except BaseException:
            await work.rollback()
            raise

    # Litestar finds what a provider wants by the names of its parameters, and ours is not known before.
    wanted = NamedDependency[AsyncSession | None]
    parameter = inspect.Parameter(session_name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=wanted)
    provide.__signature__ = inspect.Signature([parameter], return_annotation=AsyncGenerator[Streams, None])  # type: ignore[attr-defined]
    provide.__annotations__ = {session_name: wanted, "return": AsyncGenerator[Streams, None]}
    return Provide(provide)


def _as_it_is(call: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
    """Begun when it is awaited, as everything else in a handler of Litestar's."""
    return call
