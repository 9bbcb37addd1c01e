"""From the sequencer to the reader of its process, past the database: small commits, in the moment they are numbered.

Other processes hear of the head by its NOTIFY and read the log. So does this one's reader, whenever what it finds here
isn't what comes next: the fast path saves a round trip and a query, and nothing depends on it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tidelog.feed.interfaces import CommitSink
from tidelog.model.change import Commit
from tidelog.store.reading import whole_commits

ROWS_MAX = 16  # of the commits that are numbered together; more is for pages of the log
KEPT_MAX = 64  # of what the reader has not come to yet, as it waits for a page, or its event loop is busy


class _Numbered(NamedTuple):
    rows: Sequence[Any]
    head: int
    epoch: str

    @property
    def first(self) -> int:
        number: int = self.rows[0][0]
        return number


class FastPath:
    """The sequencer's thread puts in, the event loop of `open` takes out."""

    def __init__(self, sink: CommitSink) -> None:
        self._sink = sink
        self._wake: Callable[[], object] | None = None
        self._lock = threading.Lock()  # of the three below
        self._server: str | None = None  # the one that the reader is connected to
        self._kept: deque[_Numbered] = deque(maxlen=KEPT_MAX)
        self._is_woken = False

    # What the sequencer calls, in its thread.

    @property
    def rows_max(self) -> int:
        """How many rows of what is numbered next it should tell: none while nobody is subscribed."""
        return 0 if self._sink.is_deserted else ROWS_MAX

    def put(self, rows: Sequence[Any], head: int, epoch: str, server: str) -> None:
        """Commits that `server` numbered together, the last of them `head`, as rows of the log: all that they have."""
        if self._wake is None:
            return
        with self._lock:
            if server != self._server:
                return
            self._kept.append(_Numbered(rows, head, epoch))
            is_woken, self._is_woken = self._is_woken, True
        if not is_woken:
            self._wake()

    # What the reader calls.

    def open(self, on_head: Callable[[int], None]) -> None:
        """Call back, in this event loop, when something came: with the new head."""

        def tell() -> None:
            with self._lock:
                self._is_woken = False
                head = self._kept[-1].head if self._kept else 0
            on_head(head)

        loop = asyncio.get_running_loop()
        self._wake = lambda: loop.call_soon_threadsafe(tell)

    def follow(self, server: str | None) -> None:
        """Keep what this server numbers, and forget another's: the reader may have learned that it never was."""
        with self._lock:
            self._server = server
            self._kept.clear()

    def take(self) -> Sequence[Commit]:
        """The commits that come next in the feed, all that are here; none if they aren't."""
        progress = self._sink.progress
        position, epoch = progress.position, progress.epoch
        rows: list[Any] = []
        with self._lock:
            while self._kept and self._kept[0].head <= position:
                self._kept.popleft()  # it was read from the log
            while self._kept and (self._kept[0].first, self._kept[0].epoch) == (position + 1, epoch):
                numbered = self._kept.popleft()
                rows += numbered.rows
                position = numbered.head
        return whole_commits(rows, self._sink.wanted.__contains__)
