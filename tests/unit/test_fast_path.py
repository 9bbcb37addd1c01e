"""The fast_path gives the reader what comes next in its feed, and nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import pytest

from tidelog.feed.fast_path import KEPT_MAX, ROWS_MAX, FastPath
from tidelog.feed.interfaces import CommitSink
from tidelog.model.change import Topic

EPOCH = "e1"
SERVER = "s1"


class Wanted:
    def __contains__(self, topic: Topic) -> bool:
        return topic.group_id != "nobody's"


@dataclass
class Feed:
    """What the fast path looks at of a feed."""

    wanted: ClassVar = Wanted()

    position: int = 10
    epoch: str = EPOCH
    is_deserted: bool = False

    @property
    def progress(self) -> Feed:
        return self


@pytest.fixture
def feed() -> Feed:
    return Feed()


@pytest.fixture
async def fast_path(feed: Feed) -> FastPath:
    fast_path = FastPath(cast(CommitSink, feed))
    fast_path.open(lambda _head: None)
    fast_path.follow(SERVER)
    return fast_path


def rows(*numbers: int, group: str = "g") -> Sequence[Sequence[Any]]:
    return [[number, 1000 + number, 5.5, "change", 1, "s", group, "i", "update", 2, "{}"] for number in numbers]


async def put(fast_path: FastPath, *numbers: int, epoch: str = EPOCH, group: str = "g") -> None:
    fast_path.put(rows(*numbers, group=group), numbers[-1], epoch, SERVER)
    await asyncio.sleep(0)


def taken(fast_path: FastPath) -> Sequence[int]:
    return [commit.number for commit in fast_path.take()]


async def test_what_comes_next_is_taken_once(fast_path: FastPath) -> None:
    """All commits that were numbered together, together."""
    await put(fast_path, 11, 12)
    assert taken(fast_path) == [11, 12]
    assert taken(fast_path) == []


async def test_batches_that_follow_each_other_are_taken_together(fast_path: FastPath) -> None:
    """So a socket gets in one write what came while others were written to."""
    await put(fast_path, 11)
    await put(fast_path, 12, 13)
    await put(fast_path, 15)
    assert taken(fast_path) == [11, 12, 13]
    assert taken(fast_path) == []


async def test_a_busy_event_loop_is_woken_once(feed: Feed) -> None:
    """What waits for it is bounded, however much is numbered meanwhile."""
    heads: list[int] = []
    fast_path = FastPath(cast(CommitSink, feed))
    fast_path.open(heads.append)
    fast_path.follow(SERVER)
    for number in range(11, 11 + 2 * KEPT_MAX):
        fast_path.put(rows(number), number, EPOCH, SERVER)
    await asyncio.sleep(0)
    assert heads == [10 + 2 * KEPT_MAX]
    await put(fast_path, 11 + 2 * KEPT_MAX)
    assert heads == [10 + 2 * KEPT_MAX, 11 + 2 * KEPT_MAX]


async def test_what_was_read_meanwhile_is_dropped(fast_path: FastPath, feed: Feed) -> None:
    """The reader was at a page of the log when it came."""
    await put(fast_path, 11, 12)
    await put(fast_path, 13)
    feed.position = 12
    assert taken(fast_path) == [13]


@pytest.mark.parametrize("position", [9, 11])
async def test_a_gap_or_half_a_batch_is_for_the_log(fast_path: FastPath, feed: Feed, position: int) -> None:
    """Nothing is passed over and nothing repeated; what comes behind it is taken when the feed is there."""
    await put(fast_path, 11, 12)
    await put(fast_path, 13)
    feed.position = position
    assert taken(fast_path) == []
    feed.position = 12
    assert taken(fast_path) == [13]


async def test_another_epoch_is_for_the_log(fast_path: FastPath, feed: Feed) -> None:
    """Whose number 11 it is, the reader is told by Postgres before the number itself."""
    await put(fast_path, 11, epoch="e2")
    assert taken(fast_path) == []
    feed.epoch = "e2"
    assert taken(fast_path) == [11]


async def test_another_server_is_never_listened_to(fast_path: FastPath, feed: Feed) -> None:
    """It numbered before it died, and the replica that took its place never had that commit: nobody may see it."""
    heads: list[int] = []
    fast_path.open(heads.append)
    fast_path.put(rows(11), 11, EPOCH, SERVER)
    fast_path.follow(None)  # the reader's connection is lost
    fast_path.put(rows(11), 11, EPOCH, SERVER)
    fast_path.follow("s2")
    fast_path.put(rows(11), 11, EPOCH, SERVER)
    await asyncio.sleep(0)
    assert taken(fast_path) == []
    assert 11 not in heads
    fast_path.put(rows(11), 11, EPOCH, "s2")
    assert taken(fast_path) == [11]


async def test_groups_that_nobody_wants_are_left_out(fast_path: FastPath) -> None:
    """The commit itself is there: positions have no gaps."""
    await put(fast_path, 11, group="nobody's")
    (commit,) = fast_path.take()
    assert (commit.number, commit.groups) == (11, {})


async def test_a_reader_that_does_not_come_makes_it_forget(fast_path: FastPath) -> None:
    """What is kept is bounded; the log has the rest."""
    for number in range(11, 11 + 2 * KEPT_MAX):
        await put(fast_path, number)
    assert taken(fast_path) == []


async def test_rows_are_asked_for_while_somebody_is_subscribed(fast_path: FastPath, feed: Feed) -> None:
    """Else numbering need not tell."""
    assert fast_path.rows_max == ROWS_MAX
    feed.is_deserted = True
    assert fast_path.rows_max == 0


async def test_it_crosses_threads_and_tells_of_the_head(feed: Feed) -> None:
    """The sequencer runs in a thread of its own, perhaps before there is a reader."""
    fast_path = FastPath(cast(CommitSink, feed))
    fast_path.put(rows(11), 11, EPOCH, SERVER)
    heads: asyncio.Queue[int] = asyncio.Queue()
    fast_path.open(heads.put_nowait)
    fast_path.follow(SERVER)
    thread = threading.Thread(target=fast_path.put, args=(rows(11), 11, EPOCH, SERVER))
    thread.start()
    assert await asyncio.wait_for(heads.get(), 10) == 11
    thread.join()
    assert taken(fast_path) == [11]
