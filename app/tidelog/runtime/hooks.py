"""Contexts for the functions of streams, `onJoin` and `onLeave`: what a step's handler has, for a call of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tidelog.logs.request import new_trace_id
from tidelog.runtime.context import StepContext
from tidelog.runtime.runner import Runtime
from tidelog.store.share import Share
from tidelog.store.transaction import StepTransaction


@dataclass(frozen=True, slots=True)
class Hook:
    """Such a function, as a context's log lines name it."""

    name: str
    flows: Sequence[str] = ()
    emits: Sequence[str] = ()


class HookContexts:
    """Makes them. Together these functions have a step's share of the connections."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._share = Share(runtime.database.pool, runtime.settings.step_pool_share)

    @asynccontextmanager
    async def context(self, name: str, auth: Any, *, is_plain: bool) -> AsyncIterator[StepContext]:
        """One for a call: a transaction, which is committed at the end of the block, and undone by an exception."""
        work = StepTransaction(self._share)
        loop = asyncio.get_running_loop()
        runtime = self._runtime
        context = StepContext(
            Hook(name),
            new_trace_id(),
            runtime.items,
            runtime.state,
            work,
            loop,
            is_plain=is_plain,
            auth=auth,
            emitter=runtime.emitter,
        )
        try:
            yield context
            await context.calls.finish()
            await _uncancelled(work.commit())
        except BaseException:
            context.calls.discard()
            await work.rollback()
            raise


async def _uncancelled(commit: Coroutine[Any, Any, None]) -> None:
    """A COMMIT that is on its way is not broken off: whether it arrived would not be known."""
    task = asyncio.ensure_future(commit)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # which is no news: the call has failed
        raise
