"""One reading of a group for all that ask for it meanwhile, exact at its position."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.feed.fakes import ONE, Parts, Person, turns
from tidelog.errors import SnapshotTooLargeError
from tidelog.feed.catch_up import overlay as overlay_module
from tidelog.feed.catch_up.openings import Openings
from tidelog.feed.catch_up.shared_snapshot import SharedSnapshots, send_snapshot

SIZE_MAX_BYTES = 10_000


class Reading:
    """Parts of a feed, and shared snapshots of them."""

    def __init__(self, size_max_bytes: int = SIZE_MAX_BYTES) -> None:
        self.parts = Parts()
        self.snapshots = SharedSnapshots(self.parts.means, size_max_bytes)
        self.parts.write(ONE)

    def send(self, person: Person, not_before: int = 0, item: str | None = None) -> asyncio.Task[int]:
        return asyncio.create_task(
            send_snapshot(person.of(ONE, item=item), not_before, self.snapshots, Openings(), self.parts.means.draining)
        )

    def hold(self, what: str) -> asyncio.Event:
        held = self.parts.archive.held[what] = asyncio.Event()
        return held


@pytest.fixture
def reading() -> Reading:
    return Reading()


async def test_those_that_ask_meanwhile_share_one_reading(reading: Reading) -> None:
    people, held = [Person() for _ in range(3)], reading.hold("items")
    sending = [reading.send(person) for person in people]
    await turns()
    held.set()
    assert await asyncio.gather(*sending) == [1, 1, 1]
    assert reading.parts.archive.reads == ["snapshot", "items"]
    assert [person.items for person in people] == [{"i": 1}] * 3
    assert await reading.send(Person()) == 1  # who comes later has a reading of his own
    assert reading.parts.archive.reads.count("items") == 2
    assert not reading.parts.registry.topics


async def test_who_was_told_more_than_it_shows_does_not_share_it(reading: Reading) -> None:
    held = reading.hold("items")
    first = reading.send(Person())
    await turns()
    reading.parts.write(ONE)
    later = Person()
    second = reading.send(later, not_before=2)
    await turns()
    held.set()
    assert (await first, await second, later.items) == (1, 2, {"i": 2})


async def test_it_is_of_the_feeds_position_and_not_of_the_tables(reading: Reading) -> None:
    """What is published between its head and its beginning is laid over, what is deleted left out."""
    held = reading.hold("snapshot")
    person = Person()
    reading.parts.write(ONE, id="gone")
    reading.parts.archive.write(ONE, id="new")  # numbered and visible, and not published here
    sending = reading.send(person)
    await turns()
    held.set()
    await turns()
    assert not sending.done()  # it shows commit 3
    reading.parts.publish(reading.parts.archive.commits[2])
    assert (await sending, person.items) == (3, {"i": 1, "gone": 2, "new": 3})


async def test_one_that_too_much_came_meanwhile_for_is_read_again(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay_module, "KEPT_CHANGES_MAX", 2)
    held, person = reading.hold("snapshot"), Person()
    sending = reading.send(person)
    await turns()
    for _ in range(3):
        reading.parts.write(ONE)
    held.set()
    assert (await sending, person.items) == (4, {"i": 4})
    assert reading.parts.archive.reads.count("snapshot") == 2


async def test_one_that_nobody_waits_for_any_more_is_not_read_on(reading: Reading) -> None:
    held = reading.hold("items")
    sending = reading.send(Person())
    await turns()
    sending.cancel()
    await turns()
    assert not reading.parts.registry.topics
    held.set()
    assert await reading.send(Person()) == 1
    assert (reading.parts.budget.memory.taken, reading.parts.budget.disk.taken) == (0, 0)


async def test_one_that_is_too_large_says_so() -> None:
    reading = Reading(size_max_bytes=10)
    with pytest.raises(SnapshotTooLargeError):
        await reading.send(Person())
    assert (reading.parts.budget.memory.taken, list(reading.parts.registry.topics)) == (0, [])


async def test_nobody_joins_one_of_a_history_that_is_lost(reading: Reading) -> None:
    held = reading.hold("items")
    first = reading.send(Person())
    await turns()
    reading.snapshots.forget()
    second = reading.send(Person())
    await turns()
    held.set()
    await asyncio.gather(first, second)
    assert reading.parts.archive.reads.count("snapshot") == 2
