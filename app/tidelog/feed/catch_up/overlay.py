"""What is published in a group while a snapshot of it is read, to be laid over it.

The order matters. First the overlay is attached to the feed and keeps what comes; then the snapshot is read.
The item table may already show commits that have no number yet (`SnapshotHead.unnumbered`); when these come
through the feed they are skipped, and everything numbered up to the snapshot's head is in the items already.
Laying either on top again would show an item's older state over its newer one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal

from tidelog.model.change import Change, Commit, GroupCommit, Topic
from tidelog.store.snapshot import SnapshotHead

# What may gather while a snapshot is read; past either the snapshot is read again, from further on.
KEPT_CHANGES_MAX = 50_000
KEPT_CHARACTERS_MAX = 64 * 1024 * 1024  # four times what a commit may have; fewer would have large ones overflow it
# Without a sign of the feed's for so long, nobody numbers what the snapshot shows. Longer than a frozen sequencer needs
# to be replaced; and a large commit is read in pages, each of them a sign.
STALL_SECONDS = 20.0


class FeedStalledError(TimeoutError):
    """The feed doesn't come to where a snapshot is."""


class Overlay:
    """Keeps the commits of one topic. `on_complete` is called once, between two commits, when it is complete."""

    def __init__(self, on_complete: Callable[[], None]) -> None:
        self._on_complete = on_complete
        self._settled = asyncio.Event()
        self._signs = 0  # how often the feed asked
        self._failure: Exception | None = None  # of on_complete
        self.clear()

    def clear(self) -> None:
        """Begin anew, for another snapshot that will be read after this."""
        self._head: SnapshotHead | None = None
        self._kept: list[tuple[int, int, Sequence[Change]]] = []  # number, xid, net changes
        self._kept_changes = self._kept_characters = 0
        self._seen: set[int] = set()
        self._overflown = False
        self._settled.clear()

    def keep(self, commit: Commit, _topic: Topic, _part: GroupCommit, changes: Sequence[Change]) -> None:
        """A commit of the topic was published (perhaps without net changes)."""
        if self._overflown:
            return
        self._seen.add(commit.xid)
        self._kept.append((commit.number, commit.xid, changes))
        self._kept_changes += 1 + len(changes)
        self._kept_characters += sum(len(change.data) + len(change.id) for change in changes)
        if self._kept_changes > KEPT_CHANGES_MAX or self._kept_characters > KEPT_CHARACTERS_MAX:
            self.overflow()

    def end(self) -> None:
        """Nobody asks any more. Who made this is kept by it no longer."""
        self._on_complete = _do_nothing

    def overflow(self) -> None:
        """Too much came, or a commit too big to be carried: this snapshot can't be brought up to date."""
        self._overflown = True
        self._kept.clear()
        self._seen.clear()
        self._settled.set()

    def expect(self, head: SnapshotHead, position: int) -> None:
        """The snapshot was begun at this head; the feed is at `position`."""
        self._head = head
        self.check(position)

    def check(self, position: int) -> None:
        """Whether the feed, at `position`, has passed everything that the snapshot shows."""
        self._signs += 1
        head = self._head
        if self._overflown or self._settled.is_set() or head is None:
            return
        if head.number <= position and head.unnumbered <= self._seen:
            self._settled.set()
            try:
                self._on_complete()
            except Exception as error:  # theirs who wait for the snapshot, not the feed's
                self._failure = error

    async def settled(self) -> Literal["complete", "overflown"]:
        """Wait for either. Raises FeedStalledError if the feed stands still, and what `on_complete` raised."""
        while not self._settled.is_set():
            signs = self._signs
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    await self._settled.wait()
            except TimeoutError:
                if signs == self._signs:
                    raise FeedStalledError(f"no number for what is in the tables, for {STALL_SECONDS} s") from None
        if self._failure is not None:
            raise self._failure
        return "overflown" if self._overflown else "complete"

    def changes(self) -> dict[str, Change]:
        """The last change of each item that the snapshot doesn't show. Only when complete."""
        assert self._head is not None  # noqa: S101 - check()
        last: dict[str, Change] = {}
        for number, xid, changes in self._kept:
            if number <= self._head.number or xid in self._head.unnumbered:
                continue
            for change in changes:
                last.pop(change.id, None)
                last[change.id] = change
        return last


def _do_nothing() -> None:
    """Nobody asks any more."""
