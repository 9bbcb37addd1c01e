"""Who is connected, and who subscribed to what."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from tests.unit.feed.fakes import ONE, OTHER, Person
from tidelog.feed.fan_out import Follower
from tidelog.feed.registry import Registry


class Stage:
    def drop(self, _subscription: Any) -> None: ...


class Behind:
    def __init__(self) -> None:
        self.cursor = 3
        self.ended = asyncio.Event()


FOLLOWER = cast("Follower", object())


def test_a_topic_is_wanted_as_long_as_somebody_follows_it_or_is_live() -> None:
    wanted = asyncio.Event()
    registry, person = Registry(wanted), Person()
    registry.enter(person)
    registry.attach(ONE, FOLLOWER)
    assert wanted.is_set()
    registry.go_live(one := person.of(ONE))
    registry.detach(ONE, FOLLOWER)
    assert list(registry.topics) == [ONE]
    registry.end_live([one])
    assert not registry.topics
    registry.detach(ONE, FOLLOWER)  # once more is nothing


def test_a_subscription_is_on_its_way_or_live_and_never_both() -> None:
    registry, person = Registry(), Person()
    registry.enter(person)
    one = person.of(ONE)
    registry.note_stage([one], stage := Stage())
    assert (registry.on_their_way, registry.is_live(one)) == ({one: stage}, False)
    registry.go_live(one)
    assert (registry.on_their_way, registry.is_live(one)) == ({}, True)
    assert registry.take_stage(one) is None


def test_nothing_gets_live_of_a_connection_that_has_left() -> None:
    """It was on its way when its connection could not be served."""
    registry, person = Registry(), Person()
    one = person.of(ONE)
    registry.note_stage([one], Stage())
    registry.go_live(one)
    assert (registry.on_their_way, list(registry.topics), person in registry) == ({}, [], False)


def test_a_connection_leaves_with_all_that_is_live_of_it() -> None:
    """The others stay; and it may leave twice."""
    registry, leaving, staying = Registry(), Person(), Person()
    for person in (leaving, staying):
        registry.enter(person)
        registry.go_live(person.of(ONE))
    registry.go_live(leaving.of(OTHER, "t"))
    registry.full.add(leaving)
    assert registry.live_counts() == {"note": 3}
    registry.leave(leaving)
    registry.leave(leaving)
    assert (registry.live_counts(), list(registry.topics), registry.full) == ({"note": 1}, [ONE], set())
    assert list(registry.subscribers) == [staying]


async def test_a_connection_is_behind_until_that_has_ended() -> None:
    registry, person, behind = Registry(), Person(), Behind()
    registry.enter(person)
    assert registry.behind(person) is None
    registry.fall_behind(person, behind)
    assert registry.behind(person) is behind
    behind.ended.set()
    assert registry.behind(person) is None
    assert registry.behind(Person()) is None
