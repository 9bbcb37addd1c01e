"""Runs a step: its handler inside a transaction, which is committed when the handler has returned what can be used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NoReturn, TypeVar

from tidelog.access.caller import Caller
from tidelog.errors import ClientGoneError, CommitUnknownError, StepTimedOutError
from tidelog.model.step import Step
from tidelog.model.stream import Stream
from tidelog.runtime.context import StepContext
from tidelog.runtime.emitting import Emitter, watchers_of
from tidelog.runtime.handler import Handler
from tidelog.runtime.invocation import Invocation
from tidelog.runtime.retry import with_retries
from tidelog.runtime.threads import HandlerThreads
from tidelog.runtime.watch import HandlerWatch
from tidelog.settings import Settings, idle_timeout_seconds
from tidelog.store.autocommit import StepAutocommit
from tidelog.store.context_state import ContextState
from tidelog.store.engine import Database
from tidelog.store.failure import is_aftermath, is_away, is_busy, is_conflict
from tidelog.store.items import Items
from tidelog.store.origin import Origin
from tidelog.store.share import Share
from tidelog.store.transaction import StepTransaction, begin_with

Outcome = TypeVar("Outcome")
Work = StepTransaction | StepAutocommit

BREAK_OFF_SECONDS = 2.0  # for a cancelled step to roll back, and be answered, when the process ends

logger = logging.getLogger(__name__)


class Runtime:
    """What all steps of a process share."""

    def __init__(
        self,
        streams: Mapping[str, Stream],
        database: Database,
        settings: Settings,
        threads: HandlerThreads,
        steps: Iterable[Step] = (),
    ) -> None:
        """`steps` are those that events, and changes of the state, may be for."""
        steps = tuple(steps)
        self.items = {
            name: Items(stream, size_max_bytes=settings.body_size_max_bytes) for name, stream in streams.items()
        }
        self.state = ContextState(size_max_bytes=settings.body_size_max_bytes, watchers=watchers_of(steps))
        self.database = database
        self.settings = settings
        self.threads = threads
        self.emitter = Emitter(steps, settings.body_size_max_bytes)
        self._broken_off: set[asyncio.Task[Any]] = set()

    def note_broken_off(self) -> None:
        """The task of this step was cancelled: it rolls back, and says so."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - steps are run by tasks
        self._broken_off.add(task)
        task.add_done_callback(self._broken_off.discard)

    async def until_broken_off(self) -> None:
        """Wait, not for long, for those that were cancelled: they need the database to roll back."""
        if self._broken_off:
            await asyncio.wait(self._broken_off, timeout=BREAK_OFF_SECONDS)


class StepRunner:
    """Runs one step, as often as it is invoked."""

    def __init__(self, step: Step, runtime: Runtime) -> None:
        settings = runtime.settings
        self.step = step
        self._handler = Handler(step, runtime.threads)
        self._runtime = runtime
        self._items, self._state = runtime.items, runtime.state
        self._emitter = runtime.emitter
        self._share = Share(runtime.database.pool, settings.step_pool_share)
        self._where = f"step {step.name}"
        # Without a transaction the handler's work is done already: again would be twice.
        self._retries = step.retries if step.transaction else 0
        self._limit_seconds = settings.step_timeout_seconds if step.timeout_seconds is None else step.timeout_seconds
        own_limit = step.timeout_seconds is not None
        self._idle_timeout_seconds = idle_timeout_seconds(self._limit_seconds) if own_limit else None

    async def run(self, invocation: Invocation[Outcome]) -> Outcome | None:
        """The outcome, once it is committed. None if the invocation was told that the handler is given up.

        Raises whatever kept it from being committed; then nothing of it is, but for CommitUnknownError, and for a
        CancelledError that has one as its cause.
        """
        if not self._retries:
            return await self._run_once(invocation)
        where = f"{self._where}, trace {invocation.trace_id}"
        return await with_retries(self._retries, partial(self._run_once, invocation), where)

    async def _run_once(self, invocation: Invocation[Outcome]) -> Outcome | None:
        given = invocation.given()
        work = self._work(invocation)
        loop = asyncio.get_running_loop()
        context = StepContext(
            self.step,
            invocation.trace_id,
            self._items,
            self._state,
            work,
            loop,
            is_plain=self._handler.is_plain,
            auth=invocation.auth,
            emitter=self._emitter,
        )
        watch = HandlerWatch(invocation, self._limit_seconds, partial(self._give_up, context, work, invocation))
        try:
            returned = await self._handler.call(given, context, watch)
            await context.calls.finish()
            outcome = invocation.accept(returned)
            watch.stop()
            watch.check()
            if invocation.ending is not None:
                await invocation.ending(work.lend)
            # From here on nothing cancels this task but the end of the process.
            await work.commit()
            if work.is_transaction_known:
                invocation.committed(work.transaction)
        except BaseException as error:
            watch.stop()
            if watch.is_given_up:
                await watch.until_given_up()
                return None
            unseen = context.calls.discard()
            if isinstance(error, asyncio.CancelledError):
                self._runtime.note_broken_off()
            doubt = _doubt_of(error, work)
            try:
                await work.rollback()
            except asyncio.CancelledError as again:  # the process doesn't wait any longer
                raise again from doubt
            _raise_for(error, watch, unseen, work)
        return outcome

    def _work(self, invocation: Invocation[Outcome]) -> Work:
        origin = Origin(self.step.name, invocation.trace_id, Caller(invocation.auth).subject)
        if not self.step.transaction:
            return StepAutocommit(self._share, origin)
        return StepTransaction(self._share, begin_with(origin, idle_timeout_seconds=self._idle_timeout_seconds))

    async def _give_up(self, context: StepContext, work: Work, invocation: Invocation[Outcome]) -> None:
        """Take from a handler that goes on though it was cancelled what it has of the database."""
        logger.error(
            "%s, trace %s: its handler was cancelled, and goes on; it is given up", self._where, invocation.trace_id
        )
        context.calls.discard()
        await work.rollback()
        await invocation.give_up(StepTimedOutError(self._limit_seconds))


def _doubt_of(error: BaseException, work: Work) -> CommitUnknownError | None:
    """What is to be said of a step that was cancelled when something of it was stored, or may have been."""
    if isinstance(error, asyncio.CancelledError) and work.may_have_stored(error):
        return CommitUnknownError("it was cancelled, and something of it is stored, or may be")
    return None


def _raise_for(error: BaseException, watch: HandlerWatch, unseen: BaseException | None, work: Work) -> NoReturn:
    """Raise what `error`, which ended a handler, means; `unseen` is that of an earlier call that nobody awaited."""
    broken_off = watch.error()
    if isinstance(broken_off, ClientGoneError):
        raise broken_off from None
    if broken_off is not None:
        raise broken_off  # the log shows where it stood
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and not (task and task.cancelling()):
        raise RuntimeError("the handler was cancelled by its own doing") from error
    if not isinstance(error, Exception | asyncio.CancelledError):
        # SystemExit, as by sys.exit(), or KeyboardInterrupt would stop the server; of others nobody takes heed.
        raise RuntimeError(f"the handler raised {type(error).__name__}, which is no Exception") from error
    if unseen is not None and is_aftermath(error):
        raise unseen
    if (doubt := _doubt_of(error, work)) is not None:
        raise error from doubt
    is_told_to_repeat = isinstance(error, Exception) and (is_conflict(error) or is_busy(error) or is_away(error))
    if is_told_to_repeat and work.may_have_stored(error):
        raise CommitUnknownError(f"without a transaction, what the step did before stays stored: {error}") from error
    if unseen is not None:
        error.add_note(f"Before that, a call on a stream that was not awaited failed: {unseen!r}")
    raise error
