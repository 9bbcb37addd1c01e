"""Who was told what of the feed as a whole."""

from __future__ import annotations

import asyncio

from tests.unit.feed.fakes import ONE, Parts, Person, turns
from tidelog.feed.status import Status


class Telling:
    def __init__(self) -> None:
        self.parts = Parts()
        self.status = Status(self.parts.progress, self.parts.registry, self.parts.tasks)

    def person(self) -> Person:
        person = Person()
        self.parts.registry.enter(person)
        return person


def told(person: Person) -> list[tuple[str, int]]:
    return [(one["feed"], one["position"]) for one in person.got if one["type"] == "status"]


async def test_an_interruption_is_told_once_and_that_it_is_over() -> None:
    world = Telling()
    person = world.person()
    for interrupted in (False, True, True, False, False):
        world.status.tell(interrupted=interrupted)
    assert told(person) == [("interrupted", 0), ("live", 0)]


async def test_who_comes_is_told_what_is_news_to_him() -> None:
    world = Telling()
    calm = world.person()
    world.status.enter(calm)
    world.status.tell(interrupted=True)
    late = world.person()
    world.status.enter(late)
    assert (told(calm), told(late)) == ([("interrupted", 0)], [("interrupted", 0)])


async def test_who_is_full_is_told_when_he_has_room_as_it_is_then() -> None:
    world = Telling()
    full = world.person()
    full.is_full = True
    world.status.tell(interrupted=True)
    world.parts.write(ONE)
    world.status.tell(interrupted=False)
    await turns()
    assert told(full) == []
    full.is_full = False
    await turns()
    assert told(full) == [("live", 1)]
    world.status.tell_missed(full)
    assert len(told(full)) == 1


async def test_who_leaves_is_waited_for_no_more() -> None:
    world = Telling()
    full = world.person()
    full.is_full = True
    world.status.tell(interrupted=True)
    world.status.leave(full)
    await turns()
    full.is_full = False
    await turns()
    assert told(full) == []


async def test_the_position_of_a_connection_that_is_behind_is_its_own() -> None:
    """What it has not got yet it would not ask for when it comes back."""

    class Behind:
        cursor, ended = 3, asyncio.Event()

    world = Telling()
    person = world.person()
    for _ in range(5):
        world.parts.write(ONE)
    world.parts.registry.fall_behind(person, Behind())
    world.status.tell(interrupted=True)
    assert told(person) == [("interrupted", 3)]


async def test_who_cannot_be_told_is_named_and_the_others_are_told() -> None:
    world = Telling()
    good, bad, more = world.person(), world.person(), world.person()
    bad.fails = ValueError("no")
    assert list(world.status.tell(interrupted=True)) == [bad]
    assert [len(told(person)) for person in (good, bad, more)] == [1, 0, 1]
