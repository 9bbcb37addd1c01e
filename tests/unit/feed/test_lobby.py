"""How subscriptions come in, and how they are sent away."""

from __future__ import annotations

import asyncio

import pytest

from tests.feed_insides import left_of
from tests.unit.feed.fakes import MOTIA, ONE, OTHER, FakeArchive, turns
from tests.unit.feed.world import World
from tidelog.errors import StreamUnknownError


async def test_whoever_comes_however_gets_live_with_all_there_is() -> None:
    """Anew in both dialects, and from a position."""
    world = World(FakeArchive())
    for _ in range(3):
        world.write(ONE)
    people = [world.person(), world.person(MOTIA), world.person()]
    for person, since in zip(people, (None, None, 1), strict=True):
        world.feed.subscribe(person.of(ONE, since=since))
    await turns(60)
    world.write(ONE)
    await turns(60)
    assert [person.types for person in people] == [
        ["snapshot", "live", "commit 4"],
        ["sync", "update"],
        ["commit 2", "commit 3", "live", "commit 4"],
    ]
    await world.close()


@pytest.mark.parametrize(("since", "reason"), [(9, "ahead"), (0, "too_old")])
async def test_a_position_that_cannot_be_gone_on_from_begins_with_a_reset(since: int, reason: str) -> None:
    world = World(FakeArchive(floor=1))
    for _ in range(3):
        world.write(ONE)
    person = world.person()
    world.feed.subscribe(person.of(ONE, since=since))
    await turns(60)
    assert person.types == ["reset", "snapshot", "live"]
    assert person.got[0]["reason"] == reason
    await world.close()


@pytest.mark.parametrize("what", ["snapshot", "items", "page", "standing"])
@pytest.mark.parametrize("dialect", ["tidelog", "motia"])
async def test_who_unsubscribes_on_the_way_leaves_nothing_behind(what: str, dialect: str) -> None:
    world = World(FakeArchive())
    world.write(ONE)
    world.archive.held[what] = asyncio.Event()
    person = world.person(MOTIA) if dialect == "motia" else world.person()
    kinds = [None] if dialect == "motia" else [None, 0]
    subscriptions = [person.of(ONE, f"s{since}", since=since) for since in kinds]
    for subscription in subscriptions:
        world.feed.subscribe(subscription)
    await turns(60)
    for subscription in subscriptions:
        assert world.feed.unsubscribe(subscription)
        assert not world.feed.unsubscribe(subscription)
    await turns(60)
    assert left_of(world.feed) == []


async def test_a_refusal_ends_a_subscription_once_wherever_it_is() -> None:
    world = World(FakeArchive())
    world.write(ONE)
    person, error = world.person(), StreamUnknownError("no such stream")
    live, waiting = person.of(ONE, "live"), person.of(OTHER, "waiting")
    world.feed.subscribe(live)
    await turns(60)
    world.archive.held["snapshot"] = asyncio.Event()
    world.feed.subscribe(waiting)
    await turns(60)
    for subscription in (live, waiting, live, waiting):
        world.feed.lobby.refuse(subscription, error)
    await turns(60)
    assert person.refused == [error.code] * 2
    assert left_of(world.feed) == []


async def test_one_that_cannot_be_served_is_sent_away_with_all_that_it_has() -> None:
    """And is told once; what it asks for while it is being closed is nobody's."""
    world = World(FakeArchive())
    world.write(ONE)
    good, bad = world.person(), world.person()
    for person in (good, bad):
        world.feed.subscribe(person.of(ONE))
    await turns(60)
    world.archive.held["snapshot"] = asyncio.Event()
    world.feed.subscribe(bad.of(OTHER, "waiting"))
    world.feed.fail({bad: ValueError("no")})
    world.feed.fail({bad: ValueError("no")})
    world.feed.subscribe(bad.of(OTHER, "late"))
    world.write(ONE)
    await turns(60)
    assert (bad.has_failed, bad.types, world.feed.failures.connections) == (True, ["snapshot", "live"], 1)
    assert good.types == ["snapshot", "live", "commit 2"]
    world.feed.leave(good, ())
    assert left_of(world.feed) == []


async def test_its_figures_are_those_of_the_moment() -> None:
    world = World(FakeArchive())
    world.write(ONE)
    before = world.feed.stats()
    live, behind, waiting = world.person(), world.person(), world.person()
    for person in (live, behind):
        world.feed.subscribe(person.of(ONE))
    await turns(60)
    world.archive.held["page"] = world.archive.held["snapshot"] = asyncio.Event()
    world.feed.subscribe(waiting.of(OTHER))
    behind.is_full = True
    world.feed.note_full(behind)
    world.write(ONE)
    await turns(60)
    stats = world.feed.stats(head=5, lag_seconds=1.5)
    assert (stats.position, stats.lag_commits, stats.lag_seconds) == (2, 3, 1.5)
    assert (stats.connections, stats.connections_behind, stats.waiting_bytes) == (3, 1, 100)
    assert (dict(stats.subscriptions_live), dict(stats.subscriptions_on_their_way)) == ({"note": 1}, {"note": 2})
    assert (stats.commits_total - before.commits_total, stats.deliveries_total) == (1, 1)
    rates = stats.rates_since(before)
    assert rates.commits > 0 and rates.commits == rates.deliveries
    assert stats.rates_since(stats).commits == 0.0
    await world.close()


@pytest.mark.parametrize("dialect", ["tidelog", "motia"])
async def test_a_commit_that_is_too_large_to_be_kept_is_in_the_snapshot_of_those_on_their_way(dialect: str) -> None:
    """What was being read is read again; and it is a reset for who is live."""
    world = World(FakeArchive())
    world.write(ONE)
    live = world.person()
    world.feed.subscribe(live.of(ONE))
    await turns(60)
    held = world.archive.held["snapshot" if dialect == "tidelog" else "items"] = asyncio.Event()
    person = world.person(MOTIA) if dialect == "motia" else world.person()
    world.feed.subscribe(person.of(ONE))
    await turns(60)
    world.write(ONE, is_large=True)
    held.set()
    await turns(100)
    assert person.items == {"i": 2}
    assert live.types == ["snapshot", "live", "reset", "snapshot", "live"]
    await world.close()
