"""From the sequencer to the reader of its process, past the database: small commits, in the moment they are numbered.

Other processes hear of the head by its NOTIFY and read the log. So does this one's reader, whenever what it finds here
isn't what comes next: the shortcut saves a round trip and a query, and nothing depends on it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from app.feed.broadcaster import Broadcaster
from app.model.change import Commit
from app.store.reading import whole_commits

ROWS_MAX = 16  # of the commits that are numbered together; more is for pages of the log
KEPT_MAX = 64  # of what the reader has not come to yet, as it waits for a page


class _Numbered(NamedTuple):
    rows: Sequence[Any]
    head: int
    epoch: str


class Shortcut:
    """The sequencer's thread puts in, the event loop of `open` takes out."""

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_head: Callable[[int], None] | None = None
        self._kept: deque[_Numbered] = deque(maxlen=KEPT_MAX)

    # What the sequencer calls, in its thread.

    @property
    def rows_max(self) -> int:
        """How many rows of what is numbered next it should tell: none while nobody is subscribed."""
        return 0 if self._broadcaster.is_deserted else ROWS_MAX

    def put(self, rows: Sequence[Any], head: int, epoch: str) -> None:
        """Commits that were numbered together, the last of them `head`, as rows of the log: all that they have."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._keep, _Numbered(rows, head, epoch))

    # What the reader calls.

    def open(self, on_head: Callable[[int], None]) -> None:
        """Call back, in this event loop, when something came: with the new head."""
        self._loop, self._on_head = asyncio.get_running_loop(), on_head

    def take(self) -> Sequence[Commit]:
        """The commits that come next in the broadcaster's feed; none if they aren't here."""
        position, epoch = self._broadcaster.position, self._broadcaster.epoch
        while self._kept and self._kept[0].head <= position:
            self._kept.popleft()  # it was read from the log
        if not self._kept or (self._kept[0].rows[0][0], self._kept[0].epoch) != (position + 1, epoch):
            return ()
        return whole_commits(self._kept.popleft().rows, self._broadcaster.is_wanted)

    def _keep(self, numbered: _Numbered) -> None:
        assert self._on_head is not None  # noqa: S101 - `open` set it before the loop
        self._kept.append(numbered)
        self._on_head(numbered.head)
