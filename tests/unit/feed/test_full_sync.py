"""A sync is of the very moment at which it is sent, and its subscription is live from there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.feed.fakes import MOTIA, ONE, Parts, Person, turns
from tidelog.errors import SnapshotTooLargeError
from tidelog.feed.catch_up.full_sync import FullSyncs, FullSyncStage
from tidelog.feed.catch_up.openings import Openings
from tidelog.feed.catch_up.outcome import Failed


class Syncing:
    """Parts of a feed, and full syncs of them."""

    def __init__(self, size_max_bytes: int = 10_000) -> None:
        self.parts = Parts()
        self.syncs = FullSyncs(self.parts.means, self.parts.tasks, self.parts.patience, size_max_bytes)
        self.parts.write(ONE)

    def person(self) -> Person:
        person = Person(MOTIA)
        self.parts.registry.enter(person)
        return person

    def begin(self, person: Person, item: str | None = None) -> tuple[Any, FullSyncStage, asyncio.Task[Failed | None]]:
        subscription = person.of(ONE, item=item)
        stage = FullSyncStage(subscription)
        self.parts.registry.note_stage([subscription], stage)
        task = asyncio.create_task(stage.run(self.parts.means, self.syncs, Openings()))
        stage.task = task  # type: ignore[assignment]  # what it returns is not the stage's business
        return subscription, stage, task

    def hold(self, what: str = "items") -> asyncio.Event:
        held = self.parts.archive.held[what] = asyncio.Event()
        return held


@pytest.fixture
def world() -> Syncing:
    return Syncing()


async def test_late_comers_share_the_reading_and_all_get_the_present(world: Syncing) -> None:
    """What was written meanwhile is in it; live goes on behind it."""
    held, early, late = world.hold(), world.person(), world.person()
    first, _, one = world.begin(early)
    await turns()
    world.parts.write(ONE, id="j")
    second, _, two = world.begin(late)
    await turns()
    held.set()
    assert [await one, await two] == [None, None]
    assert [early.items, late.items] == [{"i": 1, "j": 2}] * 2
    assert world.parts.archive.reads == ["snapshot", "items"]
    assert world.parts.registry.is_live(first) and world.parts.registry.is_live(second)
    await turns()
    assert not world.syncs._syncs
    assert world.parts.budget.memory.taken == 0


async def test_who_unsubscribes_drops_only_himself(world: Syncing) -> None:
    """And the reading, when nobody is left."""
    held, staying, leaving = world.hold(), world.person(), world.person()
    _, _, one = world.begin(staying)
    dropped, stage, two = world.begin(leaving)
    await turns()
    world.parts.registry.take_stage(dropped)
    stage.drop(dropped)
    held.set()
    assert await one is None
    await turns()
    assert two.cancelled()
    assert (staying.types, leaving.types) == (["sync"], [])

    world.hold()
    dropped, stage, three = world.begin(leaving)
    await turns()
    stage.drop(dropped)
    await turns()
    assert three.cancelled()
    assert not world.syncs._syncs


async def test_who_is_full_gets_one_later(world: Syncing) -> None:
    """The others don't wait for him."""
    held, person, full = world.hold(), world.person(), world.person()
    _, _, one = world.begin(person)
    _, _, two = world.begin(full)
    await turns()
    full.is_full = True
    held.set()
    assert await one is None
    await turns()
    assert (person.types, full.types, two.done()) == (["sync"], [], False)
    world.parts.write(ONE)
    full.is_full = False
    assert await two is None
    assert full.items == {"i": 2}


async def test_who_cannot_be_given_it_is_alone_in_that_and_is_not_live(world: Syncing) -> None:
    """Nothing may come to him without the sync before it."""
    people = [world.person() for _ in range(3)]
    people[1].fails = ValueError("no")
    begun = [world.begin(person) for person in people]
    ended = await asyncio.gather(*(task for _, _, task in begun))
    assert [type(one) for one in ended] == [type(None), Failed, type(None)]
    assert [world.parts.registry.is_live(subscription) for subscription, _, _ in begun] == [True, False, True]


async def test_one_item_is_synced_alone(world: Syncing) -> None:
    person = world.person()
    world.parts.write(ONE, id="j")
    _, _, one = world.begin(person, "j")
    assert await one is None
    assert person.got[0]["event"]["data"] == {"id": "j", "n": 2}


async def test_what_is_too_large_refuses_all_that_wait_for_it() -> None:
    world = Syncing(size_max_bytes=10)
    waiting = [world.begin(world.person()) for _ in range(2)]
    await turns(50)
    assert [code for _, code in world.parts.refused] == [SnapshotTooLargeError.code] * 2
    for _, _, task in waiting:
        task.cancel()
    await turns()
    assert not world.parts.registry.topics
