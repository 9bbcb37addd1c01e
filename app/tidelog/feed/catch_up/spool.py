"""A snapshot's items, encoded, in bounded memory: what is more waits in a temporary file.

A client may take minutes for a large group. The database must not be held up so long by an open transaction, nor the
server's memory by the items.
"""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate

from tidelog.errors import SnapshotTooLargeError
from tidelog.feed.budget import Budget, Holding
from tidelog.feed.messages import PagesUnreadableError

MEMORY_MAX_BYTES = 256 * 1024  # of one snapshot; past it, or where all of them have theirs, it is in a file
PAGE_CHARACTERS = 128 * 1024  # of a page; one item may be larger


class Spool:
    """A group's items (or one item) exactly as of `position`, in pages of encoded items."""

    def __init__(
        self,
        budget: Budget,
        client: Hashable,
        size_max_bytes: int,
        setting: str = "TIDELOG_SNAPSHOT_SIZE_MAX_BYTES",
    ) -> None:
        """It is counted as this client's. `setting` is the one that would allow more."""
        self.position = 0
        self.epoch = ""
        self._size_max_bytes = size_max_bytes
        self._setting = setting
        self._memory, self._disk = Holding(budget.memory, client), Holding(budget.disk, client)
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


@contextmanager
def _telling_the_folder() -> Iterator[None]:
    """An error of the disk says where: "no space" may be the database's, too."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"no snapshot fits in the temporary folder {tempfile.tempdir}: {error}") from error
