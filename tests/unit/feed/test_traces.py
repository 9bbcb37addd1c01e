"""Five ways through the whole feed, step by step."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.feed_insides import left_of
from tests.unit.feed.fakes import MOTIA, ONE, OTHER, FakeArchive, Person, turns
from tests.unit.feed.world import World
from tidelog.feed.catch_up.replay import Replay
from tidelog.store.log import Head


@pytest.fixture
def world() -> World:
    world = World(FakeArchive())
    world.write(ONE, OTHER)
    return world


async def live(world: World, person: Person, *subscriptions: Any) -> None:
    for subscription in subscriptions:
        world.feed.subscribe(subscription)
    await turns(60)
    assert all(map(world.feed.registry.is_live, subscriptions))
    person.got.clear()


async def test_a_commit_reaches_the_live_at_once_those_on_their_way_later_and_the_full_from_the_log(
    world: World,
) -> None:
    full, on_its_way, person = world.person(), world.person(), world.person()
    await live(world, person, person.of(ONE))
    await live(world, full, full.of(ONE))
    held = world.archive.held["snapshot"] = asyncio.Event()
    pages = world.archive.held["page"] = asyncio.Event()
    world.feed.subscribe(on_its_way.of(ONE))
    await turns(60)
    full.is_full = True
    world.feed.note_full(full)

    world.write(ONE)
    assert (person.types, full.types, on_its_way.types) == (["commit 2"], [], [])
    assert world.feed.progress.position == 2

    full.is_full = False
    held.set()
    pages.set()
    await turns(60)
    assert full.types == ["commit 2"]
    assert (on_its_way.types, on_its_way.items) == (["snapshot", "live"], {"i": 2})
    await world.close()


async def test_one_that_comes_back_is_checked_reads_the_log_and_gets_live_between_two_commits(world: World) -> None:
    world.write(ONE)
    person = world.person()
    back = person.of(ONE, since=1)
    standing, pages = asyncio.Event(), asyncio.Event()
    world.archive.held |= {"standing": standing, "page": pages}
    world.feed.subscribe(back)
    assert back in world.feed.registry.on_their_way  # the stage is there before anything is asked
    await turns(60)
    assert world.archive.reads[-1] == "standing"
    standing.set()
    await turns(60)
    assert world.archive.reads[-1] == "page"
    world.write(ONE)  # is kept, as the log is being read up to 2
    pages.set()
    await turns(60)
    assert person.types == ["commit 2", "commit 3", "live"]
    assert world.archive.reads.count("page") == 1
    assert (world.feed.registry.is_live(back), back in world.feed.registry.on_their_way) == (True, False)
    world.write(ONE)
    assert person.types[-1] == "commit 4"
    await world.close()


async def test_a_connection_that_falls_behind_leaves_as_a_whole_before_the_commit_and_misses_nothing(
    world: World,
) -> None:
    person = world.person()
    one, other = person.of(ONE, "one"), person.of(OTHER, "other")
    await live(world, person, one, other)
    pages = world.archive.held["page"] = asyncio.Event()
    person.is_full = True
    world.feed.note_full(person)

    world.write(ONE, OTHER)
    registry = world.feed.registry
    assert (person.types, list(registry.live_of(person))) == ([], [])
    behind = registry.behind(person)
    assert isinstance(behind, Replay)
    assert all(behind in (registry.channel(topic) or world).followers for topic in (ONE, OTHER))  # type: ignore[union-attr]
    assert registry.on_their_way == {one: behind, other: behind}

    person.is_full = False
    await turns(60)
    world.write(ONE)
    pages.set()
    await turns(60)
    assert person.types == ["commit 2", "commit 3"]
    assert registry.behind(person) is None
    assert set(registry.live_of(person)) == {one, other}
    await world.close()


async def test_a_gate_opens_also_when_reading_fails(world: World) -> None:
    """Who waits at it is closed with the others of the connection, and nobody waits for ever."""
    person = world.person()
    await live(world, person, person.of(ONE))
    world.archive.errors["page"] = [ZeroDivisionError()]
    person.is_full = True
    world.feed.note_full(person)
    world.write(ONE)
    person.is_full = False
    await turns(60)
    assert person.has_failed
    assert left_of(world.feed) == []


async def test_after_lost_commits_everybody_begins_again(world: World) -> None:
    """Those who are live, those on their way, and those behind: nothing that was lost is shown."""
    here, motia, waiting = world.person(), world.person(MOTIA), world.person()
    await live(world, here, here.of(ONE))
    await live(world, motia, motia.of(ONE))
    held = world.archive.held["items"] = asyncio.Event()
    world.feed.subscribe(waiting.of(ONE))
    await turns(60)
    world.write(ONE)  # is lost

    world.archive.commits.pop()
    world.archive.items[ONE] = dict(world.archive.items[OTHER])
    world.archive.numbered, world.archive.epoch = 1, "f"
    world.feed.go_back(Head(1, 1.0, "f", 0.0, -1))
    assert world.feed.progress.position == 1
    held.set()
    await turns(100)
    assert here.types == ["commit 2", "reset", "snapshot", "live"]
    assert motia.types == ["update", "sync"]
    assert waiting.types == ["reset", "snapshot", "live"]
    assert [person.items for person in (here, motia, waiting)] == [{"i": 1}] * 3
    world.write(ONE)
    assert here.types[-1] == waiting.types[-1] == "commit 2"
    await world.close()


async def test_one_that_unsubscribes_on_the_way_takes_only_his_own_with_him(world: World) -> None:
    """Of a sync that is shared by many, also from those that it left over."""
    staying, leaving, full = (world.person(MOTIA) for _ in range(3))
    held = world.archive.held["items"] = asyncio.Event()
    subscriptions = [person.of(ONE) for person in (staying, leaving, full)]
    for subscription in subscriptions:
        world.feed.subscribe(subscription)
    await turns(60)
    assert world.feed.unsubscribe(subscriptions[1])
    full.is_full = True
    held.set()
    await turns(60)
    assert ([person.types for person in (staying, leaving, full)]) == [["sync"], [], []]
    assert world.feed.unsubscribe(subscriptions[2])  # it was left over, and waits for the next one
    full.is_full = False
    await turns(60)
    assert full.types == []
    world.write(ONE)
    assert staying.types == ["sync", "update"]
    world.feed.leave(staying, [subscriptions[0]])
    await turns(60)
    assert left_of(world.feed) == []
