"""A durable consumer: your code is called for every commit, inside the transaction that stores how far it came.

What it writes to the database through that transaction therefore happens exactly once, whatever is killed when.
Works straight on Postgres, and needs no Tidelog server but the one process that numbers commits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import asyncpg

from tidelog.backoff import Backoff
from tidelog.errors import PositionTooOldError, TransactionAbortedError
from tidelog.feed.hint import HEAD_CHANNEL, PAUSE_SECONDS, hinted_head
from tidelog.json_text import parse
from tidelog.model.change import Operation
from tidelog.store.connecting import told
from tidelog.store.consumers import (
    Batch,
    Start,
    Stored,
    check_migrated,
    find_next,
    is_registered,
    lock_position,
    read_changes,
    register,
    store_position,
)
from tidelog.store.engine import Database
from tidelog.store.failure import is_passing
from tidelog.store.log import FEED_SETTINGS
from tidelog.store.reading import Only

if TYPE_CHECKING:
    from asyncpg.transaction import Transaction

    Connection = asyncpg.Connection[Any]

__all__ = ["Change", "Commit", "Handler", "consume"]

logger = logging.getLogger("tidelog.consumer")

SLOW_POLL_SECONDS = 1.0  # stands behind the NOTIFY, finds a dead connection, and follows a consumer that died
CLOSE_TIMEOUT_SECONDS = 2.0
NAME_LENGTH_MAX = 200  # a key of an index, and shown in pg_stat_activity, which cuts it at 63
# Commits that don't match move the position on, too, but it is not stored for each of them.
SKIPS_STORED_EVERY_SECONDS = 10.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Change:
    """One create, update or delete of an item. `data` is the item; of a delete, the item as it was."""

    seq: int  # with the commit's position, the change's name: unique, and growing within a commit
    op: Operation
    stream: str
    group_id: str
    id: str
    version: int
    data: dict[str, Any]


class Commit:
    """One commit of the feed: `async for change in commit` gives its changes that were asked for, in order.

    They are read from the database as they are wanted, so that a commit of a million takes the memory of a few.
    """

    def __init__(self, position: int, at: datetime, log: Connection, wanted: Only, lowest_xid: int = 0) -> None:
        self.position = position
        self.at = at
        self.trouble: Exception | None = None  # its changes could not be read to the end
        self._log = log
        self._wanted = wanted
        self._lowest_xid = lowest_xid

    async def __aiter__(self) -> AsyncIterator[Change]:
        rows = read_changes(self._log, self.position, self._wanted, lowest_xid=self._lowest_xid)
        while True:
            try:
                row = await _ask(anext(rows))
            except StopAsyncIteration:
                return
            except (InterruptedWorkError, PositionTooOldError) as error:
                self.trouble = error
                raise
            yield Change(
                row["seq"],
                row["op"],
                row["stream"],
                row["group_id"],
                row["id"],
                row["version"],
                parse(row["data"]),
            )


Handler = Callable[[Commit, "Connection"], Awaitable[None]]


async def consume(
    database_url: str,
    name: str,
    handler: Handler,
    *,
    streams: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    start: Start = "beginning",
    batch_max: int = 1,
    transaction_timeout_seconds: float = 300.0,
) -> NoReturn:
    """Call `await handler(commit, connection)` for every commit with changes in `streams` and `groups`, for ever.

    `connection` (asyncpg's) is in the transaction that stores the position of consumer `name`: what the handler
    writes through it happens exactly once. It must not end that transaction; savepoints are its own affair. What
    it does elsewhere (a mail, a request) may be repeated after a crash. Commits come whole and in their order;
    ephemeral events don't come.

    Processes that consume under one name take turns, one transaction at a time. One that dies is followed within
    seconds; one that is frozen, when it has kept its transaction open for `transaction_timeout_seconds`.

    `start` is for a name that was never used: "beginning" is the oldest commit that is kept, "now" the last one
    before this call, and a position stands for itself. `batch_max` commits share a transaction: faster when catching
    up, and rolled back together.

    Lost connections, outdated ones (a table was altered), deadlocks, lock timeouts, serialisation failures and a
    transaction over its time are logged and tried again from the stored position. Everything else that the handler
    raises rolls the transaction back and is raised.
    Also raises DatabaseUrlError, StreamUnknownError, StreamsNotMigratedError, EncodingError, PositionTooOldError
    (commits that this consumer has not seen are gone), PositionForeignError (its position is not of this database), and
    what asyncpg raises when it is denied. Cancel it to stop: a transaction at work is rolled back.
    """
    if not 0 < len(name) <= NAME_LENGTH_MAX or "\0" in name:
        raise ValueError(f"a consumer's name has 1 to {NAME_LENGTH_MAX} characters, not {name!r}")
    for said, given in (("streams", streams), ("groups", groups)):
        if isinstance(given, str):
            raise ValueError(f"{said} is a list, not {given!r:.80}: write [{given!r:.80}]")
    if batch_max < 1:
        raise ValueError(f"batch_max is {batch_max}, but a transaction takes at least one commit")
    if transaction_timeout_seconds <= 0:
        raise ValueError(f"transaction_timeout_seconds is {transaction_timeout_seconds}, but a transaction takes time")
    if isinstance(start, str) and start not in ("beginning", "now"):
        raise ValueError(f'start is {start!r}, but should be "beginning", "now" or a position')
    wanted = Only(None if streams is None else list(streams), None if groups is None else list(groups))
    await Consumer(database_url, name, handler, wanted, start, batch_max, transaction_timeout_seconds).run()


class InterruptedWorkError(Exception):
    """The transaction is lost, but may succeed if it is run again from the stored position on new connections."""


async def _ask(statement: Awaitable[_T]) -> _T:
    """The answer to a statement of ours."""
    try:
        return await statement
    except (OSError, asyncpg.InterfaceError) as error:  # TimeoutError is an OSError
        raise InterruptedWorkError(told(error)) from error
    except asyncpg.PostgresError as error:
        if not is_passing(error):
            raise
        raise InterruptedWorkError(f"{type(error).__name__}: {error}") from error


async def _begin(connection: Connection) -> Transaction:
    transaction = connection.transaction()
    await transaction.start()
    return transaction


@dataclass(slots=True)
class Consumer:
    """One process's part in a consumer, as `consume` has it.

    `find_wanted`, if it is given, is asked on the handler's connection in each transaction, behind the consumer's lock:
    from then on that is what is wanted.

    It has two connections. The handler's has the session settings that the handler expects, and nothing of ours is
    in its way; the log is read on the other one, with the feed's settings.
    """

    database_url: str
    name: str
    handler: Handler
    wanted: Only
    start: Start
    batch_max: int
    timeout_seconds: float
    find_wanted: Callable[[Connection], Awaitable[Only]] | None = None

    is_going_on: bool = field(default=False, init=False)  # its last transaction has succeeded
    interruption: str | None = field(default=None, init=False)  # the last one
    backoff: Backoff = field(default_factory=Backoff, init=False)
    _woken: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _head: int = field(default=0, init=False)  # as read on this connection: who is told of an older one need not look
    # From this stored position up to here nothing matches; not stored yet.
    _skipped: tuple[int, int] | None = field(default=None, init=False)
    _store_skips_at: float = field(default=0.0, init=False)

    async def run(self) -> NoReturn:
        """Work for ever, also over what may pass. Raises what `consume` raises."""
        while True:
            try:
                await self._work()
            except InterruptedWorkError as interruption:
                self.is_going_on, self.interruption = False, str(interruption)
                logger.warning("consumer %s: interrupted, trying again: %s", self.name, interruption)
            await self.backoff.wait()

    async def _work(self) -> NoReturn:
        """Work until something breaks."""
        work_settings = {
            # A process that vanished or froze must not keep the consumer's row.
            "idle_in_transaction_session_timeout": f"{self.timeout_seconds * 1000:.0f}",
        }
        async with self._connection(work_settings) as work, self._connection(FEED_SETTINGS) as log:
            self._head = 0
            await self._prepare(work, log)
            while True:
                # Clear, look, wait: in this order, or a wake-up is lost.
                self._woken.clear()
                before, more = self._head, True
                while more:
                    more = await self._run_transaction(work, log)
                    self.is_going_on = True
                    self.backoff.reset()
                if self._head == before:
                    await asyncio.sleep(PAUSE_SECONDS)  # it was a forged hint; or another process has its turn
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SLOW_POLL_SECONDS):
                        await self._woken.wait()

    @contextlib.asynccontextmanager
    async def _connection(self, settings: dict[str, str]) -> AsyncIterator[Connection]:
        connect = Database.connector(self.database_url, "consume(database_url)")
        connection = await _ask(connect(**settings, application_name=f"tidelog consumer {self.name}"))
        try:
            connection.add_termination_listener(self._wake)
            yield connection
        finally:
            # Ends an open transaction, too, and with it the hold on the consumer's row.
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=CLOSE_TIMEOUT_SECONDS)

    def _wake(self, *_: object) -> None:
        self._woken.set()

    def _on_head(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        if hinted_head(payload) > self._head:
            self._woken.set()

    async def _prepare(self, work: Connection, log: Connection) -> None:
        await _ask(log.add_listener(HEAD_CHANNEL, self._on_head))
        await _ask(check_migrated(log, self.wanted.streams or ()))
        if not await _ask(register(work, self.name, self.start, self.wanted)):
            raise InterruptedWorkError("no server has run on this database yet")

    async def _run_transaction(self, work: Connection, log: Connection) -> bool:
        """Hand out the next batch; returns whether there is more to do at once."""
        limit = asyncio.timeout(self.timeout_seconds)
        try:
            async with limit:
                transaction = await _ask(_begin(work))
                # Whatever is raised from here on, the connection is closed, which rolls the transaction back.
                more = await self._advance(work, log)
                await _ask(transaction.commit())
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise InterruptedWorkError(f"a transaction took longer than {self.timeout_seconds} s") from error
        return more

    async def _advance(self, work: Connection, log: Connection) -> bool:
        stored = await _ask(lock_position(work, self.name))
        if stored is None:
            if not await _ask(is_registered(work, self.name)):
                raise InterruptedWorkError("its row in streams.consumer was removed")
            return False  # another process has it
        if self.find_wanted is not None:
            self.wanted = await _ask(self.find_wanted(work))
        position = stored.position
        if self._skipped is not None and self._skipped[0] == stored.position:
            position = self._skipped[1]
        batch = await _ask(find_next(log, self.name, position, stored, self.wanted, self.batch_max))
        self._head = batch.head
        for number, at in batch.commits:
            await self._hand_out(Commit(number, at, log, self.wanted, batch.lowest_xid), work, log)
        if batch.commits or self._is_time_to_store(stored, batch):
            await self._store(work, stored, batch)
        else:
            self._skipped = (stored.position, batch.through)
        return batch.through < batch.head

    async def _hand_out(self, commit: Commit, work: Connection, log: Connection) -> None:
        try:
            await self.handler(commit, work)
        except Exception as error:
            if commit.trouble is not None or is_passing(error) or work.is_closed() or log.is_closed():
                raise InterruptedWorkError(f"{type(error).__name__}: {error}") from error
            raise
        if commit.trouble is not None:  # though the handler made light of it
            raise commit.trouble

    def _is_time_to_store(self, stored: Stored, batch: Batch) -> bool:
        return batch.through > stored.position and asyncio.get_running_loop().time() >= self._store_skips_at

    async def _store(self, work: Connection, stored: Stored, batch: Batch) -> None:
        assert batch.epoch is not None  # noqa: S101 - there is one since the consumer was registered
        floor = await _ask(store_position(work, self.name, stored, batch.through, batch.epoch, self.wanted))
        if floor is None:
            raise TransactionAbortedError(
                f"the handler of consumer {self.name!r} ended the transaction that it was called in, or deleted its "
                "row in streams.consumer: what it wrote before may be stored, but its position is not. Let it use "
                "savepoints (connection.transaction())"
            )
        if batch.commits and floor >= batch.commits[0][0]:  # this consumer was away for too long to be waited for
            raise PositionTooOldError(
                f"changes up to commit {floor} were removed from the log while consumer {self.name!r} read on from "
                f"commit {batch.commits[0][0]}: it may have missed some"
            )
        self._skipped = None
        self._store_skips_at = asyncio.get_running_loop().time() + SKIPS_STORED_EVERY_SECONDS
