"""How far the feed is, and who waits for it."""

from __future__ import annotations

import asyncio

from tidelog.feed.progress import COMMIT_SLOT_MS, Progress
from tidelog.store.log import Head


async def test_who_waits_for_a_position_goes_on_when_it_is_told_that_it_is_reached() -> None:
    wanted = asyncio.Event()
    progress = Progress(wanted)
    waiting = asyncio.create_task(progress.reached(2, progress.generation))
    await asyncio.sleep(0)
    assert wanted.is_set()
    progress.advance(1, 1.0)
    progress.tell()
    await asyncio.sleep(0)
    assert not waiting.done()
    progress.advance(2, 2.0)
    progress.tell()
    assert await waiting


async def test_who_waits_learns_that_the_reader_was_connected_anew() -> None:
    """The position may be one that there is no more."""
    progress = Progress()
    waiting = asyncio.create_task(progress.reached(5, progress.generation))
    await asyncio.sleep(0)
    progress.go_on(Head(5, 5.0, "e", 0.0, 5))
    assert await waiting is False


def test_times_rise_where_commits_are_lost() -> None:
    """Clients drop what is not newer than what they have."""
    progress = Progress()
    progress.start(7, 700.0)
    progress.partial_position = 9
    assert progress.furthest == 9
    progress.go_back(Head(4, 400.0, "f", 0.0, -1))
    assert (progress.position, progress.furthest, progress.epoch) == (4, 4, "f")
    assert progress.at_ms == 700.0 + COMMIT_SLOT_MS
