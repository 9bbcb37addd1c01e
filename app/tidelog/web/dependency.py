"""`streams` for an application's own handlers: in the transaction of its session, or in one of their own."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator

from litestar.di import NamedDependency, Provide
from litestar.enums import ScopeType
from litestar.types import Scope
from sqlalchemy.ext.asyncio import AsyncSession

from tidelog.runtime.awaited import awaited_calls
from tidelog.runtime.outside_streams import OutsideStreams
from tidelog.runtime.runner import Runtime
from tidelog.store.autocommit import StepAutocommit
from tidelog.store.borrowed import BorrowedWork
from tidelog.store.share import Share
from tidelog.store.transaction import StepTransaction


def streams_dependency(runtime: Runtime, session_name: str) -> Provide:
    """What provides them. With an AsyncSession by the name of `session_name` they are in its transaction.

    Without one a transaction begins at the first call, and is committed when the handler has returned and before the
    response is sent; an exception rolls it back. On a WebSocket, whose handler may run for days, every call commits.
    """
    share = Share(runtime.database.pool, runtime.settings.step_pool_share)

    async def provide(scope: Scope, **given: AsyncSession | None) -> AsyncGenerator[OutsideStreams, None]:
        session = given.get(session_name)
        if session is not None:
            borrowed = BorrowedWork(session)
            try:
                with awaited_calls() as calls:
                    yield OutsideStreams(runtime.items, borrowed.lend, calls, runtime.emitter)
            finally:
                borrowed.end()
            return
        is_socket = scope["type"] == ScopeType.WEBSOCKET
        work: StepAutocommit | StepTransaction = StepAutocommit(share) if is_socket else StepTransaction(share)
        try:
            with awaited_calls() as calls:
                yield OutsideStreams(runtime.items, work.lend, calls, runtime.emitter)
            await work.commit()
        except BaseException:
            await work.rollback()
            raise

    # Litestar finds what a provider wants by the names of its parameters, and ours is not known before.
    wanted = NamedDependency[AsyncSession | None]
    parameters = [
        inspect.Parameter("scope", inspect.Parameter.KEYWORD_ONLY, annotation=Scope),
        inspect.Parameter(session_name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=wanted),
    ]
    returned = AsyncGenerator[OutsideStreams, None]
    provide.__signature__ = inspect.Signature(parameters, return_annotation=returned)  # type: ignore[attr-defined]
    provide.__annotations__ = {"scope": Scope, session_name: wanted, "return": returned}
    return Provide(provide)
