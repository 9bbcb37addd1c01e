"""What clients send is taken in order and whole, but no more of it in a turn of the loop than a turn has time for."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from tests.harness import eventually
from tidelog.web import intake
from tidelog.web.intake import TURN_SECONDS, SlicedIntake, Turn

SLICE_BYTES = 4
COST_SECONDS = TURN_SECONDS / 3  # of a slice: a turn has time for three, and a little


class Clock:
    """Time that passes only when something is taken."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.is_reading = True
        self.closing = False

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close


class Taker(SlicedIntake):
    slice_bytes = SLICE_BYTES
    has_enough = False

    def __init__(self, clock: Clock) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: Transport = Transport()  # type: ignore[assignment]
        self.connection_made(self.transport)
        self.taken: list[bytes] = []
        self._clock = clock

    def take(self, piece: bytes) -> None:
        self._clock.now += COST_SECONDS
        if piece.startswith(b"bug"):
            raise ValueError("a bug")
        self.taken.append(piece)

    @property
    def all(self) -> bytes:
        return b"".join(self.taken)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(intake, "monotonic", clock.monotonic)
    monkeypatch.setattr(intake, "_turns", WeakKeyDictionary())  # a test before may have spent what its loop had
    return clock


async def turns(until: Any) -> int:
    """How many turns of the loop it takes until that is so."""
    count = 0
    while not until():
        await asyncio.sleep(0)
        count += 1
        assert count < 10_000
    return count


async def test_what_is_small_is_taken_at_once(clock: Clock) -> None:
    taker = Taker(clock)
    taker.data_received(b"abcd")
    assert taker.taken == [b"abcd"] and taker.transport.is_reading


async def test_one_read_takes_as_many_turns_as_it_needs(clock: Clock) -> None:
    """A hundred slices, of which a turn has time for three: nothing is lost, and reading goes on afterwards."""
    taker = Taker(clock)
    said = bytes(range(200)) * 2
    taker.data_received(said)
    assert len(taker.taken) <= 4 and not taker.transport.is_reading
    assert await turns(lambda: taker.all == said) >= 25 - 2
    assert taker.transport.is_reading


async def test_all_connections_share_the_time_of_a_turn(clock: Clock) -> None:
    """A hundred that flood take no more of a turn than one, and none of them is forgotten."""
    takers = [Taker(clock) for _ in range(100)]
    for taker in takers:
        taker.data_received(b"flood" * 20)
    most, before = 0, sum(len(taker.taken) for taker in takers)
    assert before <= 4
    while any(len(taker.all) < 100 for taker in takers):
        await asyncio.sleep(0)
        now = sum(len(taker.taken) for taker in takers)
        most, before = max(most, now - before), now
    assert most <= 4


async def test_one_that_comes_anew_does_not_wait_for_all_that_flood(clock: Clock) -> None:
    takers = [Taker(clock) for _ in range(100)]
    for taker in takers:
        taker.data_received(b"flood" * 20)
    await turns(lambda: all(taker.taken for taker in takers))
    other = Taker(clock)
    other.data_received(b"ask")
    assert await turns(lambda: other.taken) <= 3


async def test_what_comes_behind_waits_for_what_came_before(clock: Clock) -> None:
    taker = Taker(clock)
    said = [b"a" * 50, b"b", b"c" * 50, b"d"]
    taker.data_received(said[0])
    for piece in said[1:]:
        taker.keep(piece)
    await turns(lambda: len(taker.all) == 102)
    assert taker.all == b"".join(said)


async def test_a_protocol_that_has_enough_gets_no_more_until_it_asks(clock: Clock) -> None:
    taker = Taker(clock)
    taker.data_received(b"x" * 60)
    taker.has_enough = True
    await turns(lambda: not taker._is_queued)
    taken = taker.all
    assert len(taken) < 60
    taker.has_enough = False
    taker.go_on()
    await turns(lambda: len(taker.all) == 60)
    assert taker.transport.is_reading


async def test_what_was_said_before_the_end_is_taken_before_it(clock: Clock) -> None:
    """A client that says its last word and is gone, while the turn's time is spent."""
    taker = Taker(clock)
    Turn.of(taker.loop).left = 0
    taker.data_received(b"bye")
    assert not taker.taken
    taker.eof_received()
    assert taker.taken == [b"bye"]


async def test_nothing_is_taken_of_a_connection_that_is_closed(clock: Clock) -> None:
    taker = Taker(clock)
    taker.data_received(b"x" * 60)
    taker.transport.close()
    taken = taker.all
    await turns(lambda: not taker._is_queued)
    assert (taker.all, taker.drop_kept()) == (taken, b"")


async def test_one_whose_bytes_can_not_be_taken_is_closed_and_no_other(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    broken, other = Taker(clock), Taker(clock)
    broken.data_received(b"x" * 16 + b"bug")
    other.data_received(b"y" * 60)
    await eventually(lambda: len(other.all) == 60)
    assert broken.transport.closing and not other.transport.closing
    assert [record.exc_info is not None for record in caplog.records] == [True]
