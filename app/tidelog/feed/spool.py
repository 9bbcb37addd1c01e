"""Snapshots for subscriptions with positions: read once, in bounded memory, and sent at each client's pace.

A client may take minutes for a large group. The database must not be held up so long by an open transaction,
nor the server's memory by the items: they wait in a temporary file, encoded.
"""

from __future__ import annotations

import asyncio
import tempfile
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from tidelog.errors import SnapshotTooLargeError
from tidelog.feed.budget import Budget, Holding, NoRoomError
from tidelog.feed.errands import forget_cancellation
from tidelog.feed.overlay import Overlay
from tidelog.feed.subscription import PagesUnreadableError
from tidelog.model.change import Change

if TYPE_CHECKING:
    from tidelog.feed.broadcaster import Broadcaster
    from tidelog.feed.subscription import PositionSubscription

MEMORY_MAX_BYTES = 256 * 1024  # of one snapshot; past it, or where all of them have theirs, it is in a file
PAGE_CHARACTERS = 128 * 1024  # of a page; one item may be larger


class Spool:
    """A group's items (or one item) exactly as of `position`, in pages of encoded items."""

    def __init__(self, budget: Budget, size_max_bytes: int, setting: str = "TIDELOG_SNAPSHOT_SIZE_MAX_BYTES") -> None:
        """`setting` is the one that would allow more."""
        self.position = 0
        self.epoch = ""
        self._size_max_bytes = size_max_bytes
        self._setting = setting
        self._memory, self._disk = Holding(budget.memory), Holding(budget.disk)
        self._is_in_file = False
        self._file = tempfile.SpooledTemporaryFile()  # noqa: SIM115 - closed by close()
        self._ends: list[int] = []
        self._users = 1

    @property
    def size(self) -> int:
        """Bytes of its pages."""
        return self._ends[-1] if self._ends else 0

    @property
    def is_in_file(self) -> bool:
        """Whether it is too large for memory, or the memory for snapshots is full."""
        return self._is_in_file

    def reserve(self, disk: Holding) -> None:
        """It is to have this of the disk; before anything is added."""
        self._disk = disk

    def hold(self) -> None:
        """One more uses it: close it once more."""
        self._users += 1

    def close(self) -> None:
        """It is used no more, or by one less."""
        self._users -= 1
        if self._users:
            return
        with suppress(OSError):  # what is still to be written is not needed any more
            self._file.close()
        self._memory.release()
        self._disk.release()

    def add(self, items: Sequence[str]) -> None:
        """Append items, each a text. Raises SnapshotTooLargeError, NoRoomError, and OSError for want of room."""
        sizes = list(accumulate(map(len, items)))
        begin = size = 0
        while begin < len(items):
            end = max(begin + 1, bisect_right(sizes, size + PAGE_CHARACTERS, begin))
            self._add_page(",".join(items[begin:end]).encode())
            begin, size = end, sizes[end - 1]

    def finish(self) -> None:
        """There are no more items. Raises OSError, so that reading the pages doesn't."""
        with _telling_the_folder():
            self._file.flush()

    def rewrite(self, items: Sequence[str]) -> None:
        """Have these instead, in the room that it has; nobody may be reading it. Raises what `add` does."""
        self._ends.clear()
        with _telling_the_folder():
            self._file.seek(0)
            self._file.truncate()
        self._memory.begin_again()
        self._disk.begin_again()
        self.add(items)
        self.finish()

    def settle(self) -> None:
        """It stays as it is: give back the room that was reserved beyond that."""
        self._memory.settle()
        self._disk.settle()

    def pages(self) -> Iterator[tuple[bytes, bool]]:
        """Each page, one at least, and whether there are more."""
        if not self._ends:
            yield b"", False
        begin = 0
        for number, end in enumerate(self._ends, start=1):
            try:
                self._file.seek(begin)
                page = self._file.read(end - begin)
            except OSError as error:  # not to be tried again: some pages may have been sent
                raise PagesUnreadableError("a snapshot's temporary file can't be read") from error
            yield page, number < len(self._ends)
            begin = end

    def _add_page(self, page: bytes) -> None:
        size = self.size + len(page)
        if size > self._size_max_bytes:
            raise SnapshotTooLargeError(
                f"the group has over {self._size_max_bytes} bytes of items: subscribe to single items, "
                f"or raise {self._setting}"
            )
        with _telling_the_folder():
            if self._is_in_file:
                self._disk.grow(len(page))
            elif size > MEMORY_MAX_BYTES or not self._memory.try_grow(len(page)):
                self._disk.grow(size)
                self._is_in_file = True
                self._file.rollover()
                self._memory.release()
            self._file.write(page)
        self._ends.append(size)


class Spooling:
    """Reads one snapshot into a spool, for all that ask for it meanwhile; open as long as one of them uses it."""

    def __init__(self, broadcaster: Broadcaster, subscription: PositionSubscription, size_max_bytes: int) -> None:
        self._broadcaster = broadcaster
        self._topic = subscription.topic
        self._item_id = subscription.item_id
        self._dialect = subscription.dialect
        self._size_max_bytes = size_max_bytes
        self._users = 0
        self._abandoned = False
        self._position: int | None = None  # once it is known; before, it is going to be the feed's or later
        self._reading = asyncio.create_task(self._read())
        self._reading.add_done_callback(_take_exception)  # perhaps nobody waits any more who would

    def is_shareable(self, not_before: int) -> bool:
        """Whether it is still being read, and isn't older: else those who come begin with a newer one."""
        is_new_enough = self._position is None or self._position >= not_before
        return is_new_enough and not self._reading.done() and not self._abandoned

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Spool]:
        """The spool, once it is read. Raises SnapshotTooLargeError, StreamUnknownError, what the archive raises."""
        self._users += 1
        try:
            yield await asyncio.shield(self._reading)
        finally:
            self._users -= 1
            if not self._users:
                self._abandon()

    def _abandon(self) -> None:
        """Nobody uses it any more."""
        self._abandoned = True
        self._reading.cancel()
        if self._reading.done() and not self._reading.cancelled() and self._reading.exception() is None:
            self._reading.result().close()

    async def _read(self) -> Spool:
        room: Holding | None = None
        while True:
            spool = Spool(self._broadcaster.budget, self._size_max_bytes)
            if room is not None:
                spool.reserve(room)
            lacking: NoRoomError | None = None
            try:
                if await self._fill(spool):
                    return spool
            except NoRoomError as error:
                lacking = error
            except BaseException:
                spool.close()
                raise
            spool.close()
            self._position = None
            room = None if lacking is None else await lacking.wait()

    async def _fill(self, spool: Spool) -> bool:
        """Fill the spool; False if so much was published meanwhile that it must be begun again."""
        self._position = None
        dialect = self._dialect
        overlay = Overlay(lambda: None)
        self._broadcaster.attach(self._topic, overlay)
        try:
            async with self._broadcaster.archive.snapshot(self._topic, self._item_id) as snapshot:
                self._broadcaster.expect(overlay, snapshot.head)
                if await overlay.settled() == "overflown":
                    return False
                # Without waiting in between: what is laid over goes up to this position.
                spool.position, spool.epoch = self._broadcaster.position, snapshot.head.epoch
                self._position = spool.position
                later = overlay.changes()
                self._broadcaster.detach(self._topic, overlay)
                async with aclosing(snapshot.batches("id, version, data")) as batches:
                    async for rows in batches:
                        spool.add(dialect.items(_as_of(later, rows) if later else rows))
        finally:
            self._broadcaster.detach(self._topic, overlay)
        created = [change for change in later.values() if self._item_id in (None, change.id)]
        spool.add(dialect.items([_row(change) for change in created if change.op != "delete"]))
        spool.finish()
        spool.settle()
        return True


@contextmanager
def _telling_the_folder() -> Iterator[None]:
    """An error of the disk says where: "no space" may be the database's, too."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"no snapshot fits in the temporary folder {tempfile.tempdir}: {error}") from error


def _as_of(later: dict[str, Change], rows: Sequence[Any]) -> list[Any]:
    """The rows with the later changes laid over them; these are then done with."""
    changed = []
    for row in rows:
        change = later.pop(row[0], None)
        if change is None:
            changed.append(row)
        elif change.op != "delete":
            changed.append(_row(change))
    return changed


def _row(change: Change) -> tuple[str, int, str]:
    return change.id, change.version, change.data


def _take_exception(task: asyncio.Task[Spool]) -> None:
    if task.cancelled():
        forget_cancellation(task)
    else:
        task.exception()
