"""From past positions to the present, and live, with the log as the buffer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.unit.feed.fakes import ONE, OTHER, Parts, Person, turns
from tidelog.feed.catch_up import replay as replay_module
from tidelog.feed.catch_up.replay import Replay
from tidelog.feed.draining import Draining, FellBehindError
from tidelog.feed.subscription import Subscription
from tidelog.model.change import Topic
from tidelog.model.position import ResetReason


class Replaying:
    """Parts of a feed with five commits behind it, and replays on them."""

    def __init__(self) -> None:
        self.parts = Parts()
        self.person = Person()
        self.parts.registry.enter(self.person)
        self.begun_again: list[tuple[str, ResetReason]] = []
        for _ in range(5):
            self.parts.write(ONE)

    def begin(self, cursors: Mapping[Subscription, int], *, is_new: bool = True) -> Replay:
        replay = Replay(self.parts.means, self.person, cursors, self._begin_again, is_new=is_new)
        replay.attach()
        replay.task = asyncio.create_task(replay.catch_up())
        return replay

    def _begin_again(self, subscription: Subscription, reason: ResetReason) -> None:
        self.begun_again.append((subscription.name, reason))


@pytest.fixture
def world() -> Replaying:
    return Replaying()


async def test_each_gets_what_comes_after_its_cursor_once_and_all_go_live_together(world: Replaying) -> None:
    """One reading of the log for both."""
    early, late = world.person.of(name="early"), world.person.of(name="late")
    replay = world.begin({early: 2, late: 4})
    await replay.task
    commits = [(one["position"], one["subscriptions"]) for one in world.person.got if one["type"] == "commit"]
    assert commits == [(3, ["early"]), (4, ["early"]), (5, ["early", "late"])]
    assert world.person.types[-2:] == ["live", "live"]
    assert world.parts.registry.is_live(early) and world.parts.registry.is_live(late)
    assert replay.ended.is_set()


async def test_what_is_published_while_the_last_is_read_comes_behind_it(world: Replaying) -> None:
    """It is kept, and not read again."""
    held = world.parts.archive.held["page"] = asyncio.Event()
    replay = world.begin({world.person.of(): 3})
    await turns()
    world.parts.write(ONE)
    world.parts.write(ONE)
    held.set()
    await replay.task
    assert world.person.types == ["commit 4", "commit 5", "commit 6", "commit 7", "live"]
    assert world.parts.archive.reads.count("page") == 1


async def test_what_is_too_much_to_be_kept_is_read(world: Replaying, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "KEPT_COMMITS_MAX", 2)
    held = world.parts.archive.held["page"] = asyncio.Event()
    replay = world.begin({world.person.of(): 4})
    await turns()
    for _ in range(4):
        world.parts.write(ONE)
    held.set()
    await replay.task
    assert world.person.types == [f"commit {number}" for number in range(5, 10)] + ["live"]
    assert world.parts.archive.reads.count("page") == 2


async def test_new_ones_wait_at_the_gate_for_older_ones_of_their_connection(world: Replaying) -> None:
    """A position holds for all that is live of a connection."""
    older, newer = world.person.of(name="older"), world.person.of(OTHER, "newer")
    held = world.parts.archive.held["page"] = asyncio.Event()
    behind = world.begin({older: 3}, is_new=False)
    world.parts.registry.fall_behind(world.person, behind)
    new = world.begin({newer: 5})
    await turns()
    assert not world.parts.registry.is_live(newer)
    held.set()
    await asyncio.gather(behind.task or turns(), new.task or turns())
    assert world.person.types == ["commit 4", "commit 5", "live"]
    assert world.parts.registry.is_live(older) and world.parts.registry.is_live(newer)


async def test_the_gate_opens_when_the_older_ones_end_however_that_is(world: Replaying) -> None:
    older, newer = world.person.of(name="older"), world.person.of(OTHER, "newer")
    world.parts.archive.held["page"] = asyncio.Event()
    behind = world.begin({older: 3}, is_new=False)
    world.parts.registry.fall_behind(world.person, behind)
    new = world.begin({newer: 5})
    await turns()
    behind.drop(older)  # unsubscribed
    await turns()
    assert world.parts.registry.is_live(newer)
    assert behind.task is not None and behind.task.cancelled()
    assert new.ended.is_set()


async def test_a_commit_that_is_too_large_begins_those_again_that_want_it(world: Replaying) -> None:
    """In the turn in which it is found: the others go on behind it."""
    large = world.parts.archive.write(OTHER)
    large.truncated = True
    world.parts.publish(large)
    world.parts.write(ONE)
    one, other = world.person.of(ONE, "one"), world.person.of(OTHER, "other")
    await world.begin({one: 5, other: 5}).task
    assert world.begun_again == [("other", "too_large")]
    assert world.person.types == ["commit 7", "live"]


async def test_what_is_removed_from_the_log_meanwhile_begins_those_again_that_lack_it(world: Replaying) -> None:
    world.parts.archive.floor = 3
    await world.begin({world.person.of(name="far"): 1, world.person.of(name="near"): 4}).task
    assert world.begun_again == [("far", "too_old")]
    assert world.person.types == ["commit 5", "live"]


async def test_changes_of_a_stream_that_are_removed_meanwhile_begin_those_again_that_lack_them(
    world: Replaying,
) -> None:
    """Not those of other streams, nor one that comes from behind its floor."""
    world.parts.archive.stream_floors = {"note": 3, "nobody's": 5}
    task = Topic("task", "one")
    world.parts.write(ONE, task)
    far, near, other = world.person.of(name="far"), world.person.of(name="near"), world.person.of(task, "other")
    await world.begin({far: 1, other: 1, near: 4}).task
    assert world.begun_again == [("far", "too_old")]
    assert [frame["subscriptions"] for frame in world.person.got if frame["type"] == "commit"] == [
        ["near"],
        ["near", "other"],
    ]


async def test_a_client_that_takes_nothing_is_given_up_and_reads_no_further(world: Replaying) -> None:
    world.parts.means = replace(world.parts.means, draining=Draining(0.01))
    world.person.is_full = True
    with pytest.raises(FellBehindError):
        await world.begin({world.person.of(): 1}).task
    assert (world.person.is_given_up, world.parts.archive.reads) == (True, [])
