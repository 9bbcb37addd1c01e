"""What is published while a snapshot is read, and what of it is laid over the snapshot."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.feed.fakes import ONE, turns
from tidelog.feed.catch_up import overlay as overlay_module
from tidelog.feed.catch_up.overlay import FeedStalledError, Overlay
from tidelog.model.change import Change, Commit, GroupCommit
from tidelog.store.snapshot import SnapshotHead


class Following:
    """An overlay, and how often it was complete."""

    def __init__(self) -> None:
        self.completed = 0
        self.overlay = Overlay(self._note)

    def _note(self) -> None:
        self.completed += 1

    def keep(self, number: int, id: str = "i", xid: int | None = None) -> None:
        change = Change(number, "update", id, number, f"{number}")
        part = GroupCommit([change], [])
        self.overlay.keep(Commit(number, xid or 1000 + number, 0.0, {ONE: part}), ONE, part, [change])

    @property
    def laid_over(self) -> dict[str, str]:
        return {id: change.data for id, change in self.overlay.changes().items()}


def head(number: int, *unnumbered: int) -> SnapshotHead:
    return SnapshotHead(number, "e", frozenset(unnumbered))


async def test_what_the_snapshot_shows_is_not_laid_over_it() -> None:
    """Commits up to its head are in it, though published later; of what comes behind, the last of each item counts."""
    following = Following()
    following.keep(1)
    following.overlay.expect(head(2), position=1)
    assert following.completed == 0  # it shows commit 2
    following.keep(2, "j")
    following.keep(3, "j")
    following.keep(4, "j")
    following.overlay.check(4)
    assert (following.completed, await following.overlay.settled()) == (1, "complete")
    assert following.laid_over == {"j": "4"}


async def test_what_had_no_number_when_it_was_read_is_waited_for_and_skipped() -> None:
    """It is in the items: laid over, an older state could cover a newer one."""
    following = Following()
    following.overlay.expect(head(1, 1003), position=1)
    following.keep(2)
    following.overlay.check(2)
    assert following.completed == 0
    following.keep(3, xid=1003)
    following.overlay.check(3)
    assert following.completed == 1
    assert following.laid_over == {"i": "2"}


async def test_too_much_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay_module, "KEPT_CHANGES_MAX", 4)
    following = Following()
    following.overlay.expect(head(0, 1003), position=0)
    for number in (1, 2, 3):
        following.keep(number)
    assert (following.completed, await following.overlay.settled()) == (0, "overflown")
    following.overlay.clear()  # it is read again, from further on
    following.overlay.expect(head(3), position=3)
    assert (await following.overlay.settled(), following.laid_over) == ("complete", {})


async def test_a_feed_that_stands_still_is_told_and_one_that_moves_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overlay_module, "STALL_SECONDS", 0)  # a turn of the event loop
    following = Following()
    following.overlay.expect(head(1), position=0)
    waiting = asyncio.create_task(following.overlay.settled())
    for _ in range(50):
        following.overlay.check(0)
        await asyncio.sleep(0)
    assert not waiting.done()
    with pytest.raises(FeedStalledError):
        await waiting


async def test_what_is_done_when_it_is_complete_may_fail_for_those_who_wait_and_not_for_the_feed() -> None:
    overlay = Overlay(lambda: [][0])
    overlay.expect(head(0), position=0)
    await turns()
    with pytest.raises(IndexError):
        await overlay.settled()
