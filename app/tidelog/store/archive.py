"""What is stored, for those who are not live yet: snapshots of groups, and past commits.

Its few connections are a pool of their own: subscribers that come back may wait for each other, and must not
take the steps' connections. No connection is held while a client is waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from tidelog.errors import ItemUnreadableError, StreamUnknownError
from tidelog.fair import Claim, Fair
from tidelog.model.change import Commit, Topic
from tidelog.model.position import ResetReason
from tidelog.model.stream import Stream
from tidelog.store.bulk import Bulk
from tidelog.store.engine import Database
from tidelog.store.failure import CONNECTION_ERRORS
from tidelog.store.log import read_head
from tidelog.store.queries import load
from tidelog.store.reading import Only, Page, PageRequest, read_page
from tidelog.store.ready import ReadyRequest, Wanted, fetch_ready
from tidelog.store.retention import read_floor, read_stream_floors
from tidelog.store.snapshot import ItemsUnreadableError, Snapshot, open_snapshot
from tidelog.store.xid_range import read_xid_range

if TYPE_CHECKING:
    from tidelog.store.reading import Connection

logger = logging.getLogger("tidelog.archive")

IS_KEPT = load("is_kept")
NEXT_WANTED = load("next_wanted")

CONNECTION_TIMEOUT_SECONDS = 60.0  # in the line for one
SNAPSHOT_TIMEOUT_SECONDS = 60.0  # the largest one at a slow disk's pace; a dead connection shows itself
PAGE_TIMEOUT_SECONDS = 30.0
ENDING_SECONDS = 5.0  # what a statement may take to end when it is cancelled: a frozen server's never does
UNREADABLE_MAX = 1000  # remembered groups; others are logged again
PAGE_ROWS_MAX = 256  # some milliseconds' work, in which the live ones wait
PAGE_BYTES_MAX = 256 * 1024  # is handed to one connection at once, whose buffer grows by it at most
# How many of each may be under way, of ARCHIVE_POOL_SIZE connections (engine.py): those who come back leave one to
# those who come anew, and large snapshots one to past commits. Who is one too many waits, which doesn't count as the
# statement's time; clients take turns, so that one who asks for very much holds up only what is its own.
PAGES_AT_ONCE_MAX = 2
STANDINGS_AT_ONCE_MAX = 1
SNAPSHOTS_AT_ONCE_MAX = 3
SNAPSHOTS_OF_ONE_MAX = 2  # client: one may take long, and whoever comes meanwhile needn't wait for it


class Standing(NamedTuple):
    """The log, as seen by one who comes back from an epoch."""

    head: int
    floor: int  # up to it commits are removed
    shared: int  # up to it they are those of the epoch that was asked about; -1: there is none such
    is_present: bool  # the epoch is the present one
    stream_floors: Mapping[str, int] = MappingProxyType({})  # up to it changes of that stream are removed

    def refusal(self, number: int, stream: str) -> ResetReason | None:
        """Why one who has all of a stream up to `number` can't go on from there, if he can't."""
        if number > self.shared:
            return "ahead" if self.is_present else "epoch"
        return "too_old" if number < max(self.floor, self.stream_floors.get(stream, 0)) else None


class ForgottenError(Exception):
    """The commits that were to be read next are not kept any more; or some streams' changes in them, up to `floors`."""

    def __init__(self, message: str = "", floors: Mapping[str, int] = MappingProxyType({})) -> None:
        super().__init__(message)
        self.floors = floors  # empty: of nothing set apart, so that all is gone


class Archive:
    """Reads by `database`'s archive pool. Raises OSError, TimeoutError and asyncpg's errors."""

    def __init__(self, database: Database, streams: Mapping[str, Stream]) -> None:
        self._database = database
        self._streams = streams
        self._pages = Fair(PAGES_AT_ONCE_MAX)
        self._standings = Fair(STANDINGS_AT_ONCE_MAX)
        self._snapshots = Fair(SNAPSHOTS_AT_ONCE_MAX, of_one_max=SNAPSHOTS_OF_ONE_MAX)
        self._unreadable: set[Topic] = set()  # whose trouble is in the log

    async def reconnect(self) -> None:
        """Read by new connections: the present ones may lead to a server that is not the one any more."""
        await self._database.archive_pool.expire_connections()
        await self._database.reads_pool.expire_connections()

    @asynccontextmanager
    async def snapshot(self, topic: Topic, item_id: str | None, claim: Claim) -> AsyncIterator[Snapshot]:
        """Begin to read a group, or one item, when it is the claim's turn.

        Raises StreamUnknownError, ItemUnreadableError, ItemsUnreadableError."""
        stream = self._streams.get(topic.stream)
        if stream is None:
            raise StreamUnknownError(f"no stream is named {topic.stream!r}")
        try:
            async with (
                self._connection(claim) as connection,
                _time_limit(SNAPSHOT_TIMEOUT_SECONDS),
                open_snapshot(connection, stream.name, stream.table, topic.group_id, item_id) as snapshot,
            ):
                yield snapshot
        except ItemsUnreadableError as error:
            if error.is_outdated:
                await self.reconnect()  # what one connection remembers of the table, the others may, too
            raise
        except ItemUnreadableError as error:
            if topic not in self._unreadable:  # once, not for each client that tries again
                logger.error("%s: %s", topic, error)
            self._unreadable = {*list(self._unreadable)[:UNREADABLE_MAX], topic}
            raise

    @asynccontextmanager
    async def _connection(self, claim: Claim) -> AsyncIterator[Connection]:
        """One for a snapshot, when it is this one's turn."""
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(CONNECTION_TIMEOUT_SECONDS):
                    await stack.enter_async_context(self._snapshots.place(claim))
                    connection = await stack.enter_async_context(self._lent(SNAPSHOT_TIMEOUT_SECONDS))
            except TimeoutError as error:
                raise TimeoutError(f"no connection for a snapshot within {CONNECTION_TIMEOUT_SECONDS} s") from error
            yield connection

    @asynccontextmanager
    async def _lent(self, seconds: float) -> AsyncIterator[Connection]:
        """One of the pool's. It can't be given back before its statement has ended: if that takes long it is closed."""
        closing: asyncio.TimerHandle | None = None
        try:
            async with self._database.archive_pool.acquire() as connection:
                closing = asyncio.get_running_loop().call_later(seconds + ENDING_SECONDS, _close, connection)
                yield connection
        finally:
            if closing is not None:
                closing.cancel()

    # `cursors` are up to where who reads has all of each stream that he wants: of what was removed he misses only what
    # came after.

    async def page(
        self, request: PageRequest, topics: Collection[Topic], cursors: Mapping[str, int], claim: Claim
    ) -> Page:
        """A page of past commits with the rows of `topics`. Raises ForgottenError."""
        only = Only([topic.stream for topic in topics], [topic.group_id for topic in topics], are_pairs=True)
        async with self._kept_from(request.number, cursors, claim) as connection:
            return await read_page(
                connection,
                request,
                only,
                rows_max=PAGE_ROWS_MAX,
                bytes_max=PAGE_BYTES_MAX,
                timeout_seconds=PAGE_TIMEOUT_SECONDS,
            )

    async def next_wanted(
        self, number: int, last: int, topics: Collection[Topic], cursors: Mapping[str, int], claim: Claim
    ) -> int:
        """Up to which number, at most `last`, no commit after `number` has any of `topics`. Raises ForgottenError."""
        streams, group_ids = [topic.stream for topic in topics], [topic.group_id for topic in topics]
        async with self._kept_from(number + 1, cursors, claim) as connection:
            xids = await read_xid_range(connection, number + 1, timeout_seconds=PAGE_TIMEOUT_SECONDS)
            found: int = await connection.fetchval(NEXT_WANTED, streams, group_ids, number + 1, last, *xids)
        return found

    async def touched(
        self, commit: Commit, topics: Collection[Topic], cursors: Mapping[str, int], claim: Claim
    ) -> Collection[Topic]:
        """Which of `topics` a large commit touches. Raises ForgottenError."""
        async with self._kept_from(commit.number, cursors, claim) as connection:
            return await Bulk(connection, PAGE_TIMEOUT_SECONDS).touched(commit.xid, topics)

    async def ready(
        self, request: ReadyRequest, wanted: Wanted, cursors: Mapping[str, int], claim: Claim
    ) -> Sequence[Any]:
        """A page's rows of past commits as messages, for read_ready(). Raises ForgottenError."""
        async with self._kept_from(request.first, cursors, claim) as connection:
            return await fetch_ready(connection, request, wanted)

    @asynccontextmanager
    async def _kept_from(self, number: int, cursors: Mapping[str, int], claim: Claim) -> AsyncIterator[Connection]:
        """A connection to read commits from `number` on. Raises ForgottenError if they weren't kept meanwhile."""
        async with (
            self._pages.place(claim),
            asyncio.timeout(PAGE_TIMEOUT_SECONDS),
            self._lent(PAGE_TIMEOUT_SECONDS) as connection,
        ):
            yield connection
            # Asked after the page was read: what is kept now was kept then, and the oldest go first.
            ((is_kept, streams, floors),) = await connection.fetch(IS_KEPT, number)
        if not is_kept:
            raise ForgottenError(f"commit {number} was to be read, but it is removed")
        missed = {stream: floor for stream, floor in zip(streams, floors, strict=True) if stream in cursors}
        missed = {stream: floor for stream, floor in missed.items() if floor > max(number - 1, cursors[stream])}
        if missed:
            raise ForgottenError(f"changes from commit {number} on were to be read, but are removed: {missed}", missed)

    async def standing(self, epoch: str, claim: Claim) -> Standing:
        """From where those who were in `epoch` can go on, and how far the log goes."""
        async with (
            self._standings.place(claim),
            asyncio.timeout(PAGE_TIMEOUT_SECONDS),
            self._lent(PAGE_TIMEOUT_SECONDS) as connection,
        ):
            floor, stream_floors = await read_floor(connection), await read_stream_floors(connection)
            head = await read_head(connection, epoch, timeout_seconds=PAGE_TIMEOUT_SECONDS)
        return Standing(head.number, floor, head.shared, epoch == head.epoch, stream_floors)


def _close(connection: Connection) -> None:
    with suppress(asyncpg.InterfaceError):  # it has been given back, in this turn of the event loop
        connection.terminate()


@asynccontextmanager
async def _time_limit(seconds: float) -> AsyncIterator[None]:
    """Raises ItemsUnreadableError after so long: the others have their connections meanwhile."""
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except CONNECTION_ERRORS as error:  # perhaps of a connection that had to be closed
        if not limit.expired():
            raise
        raise ItemsUnreadableError(TimeoutError(f"a snapshot took over {seconds} s"), may_pass=True) from error
