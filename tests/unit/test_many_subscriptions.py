"""One connection with many subscriptions costs what they are, and not their square: counted, not timed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import pytest

from tests.unit.test_containment import ONE, Person, commit, open_feed, publish
from tidelog.feed.broadcaster import Broadcaster
from tidelog.feed.catch_up.replay import Replay
from tidelog.feed.failures import UnservedError
from tidelog.feed.fan_out import Channel, Touched, deliver
from tidelog.feed.subscription import CommitHead, PositionSubscription, Subscription, prepare
from tidelog.model.change import Change, Commit, Event, GroupCommit
from tidelog.web.dialects.motia import MotiaDialect
from tidelog.web.dialects.tidelog import TidelogDialect

FEW = 100  # twice as many must not take four times the work
GROWTH_MAX = 2.3
OPERATIONS_OF_NOTHING = 50


def operations(work: Callable[[], object]) -> int:
    """How many of Python's instructions this is."""
    count = 0

    def trace(frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def subscriptions(feed: Broadcaster, dialect: Any, number: int, kind: str) -> list[PositionSubscription]:
    """Of one connection, to one group: of its items, of the whole, of one item many times, or of this and that."""
    items = {
        "of items": lambda n: f"i{n}",
        "of one item": lambda _: "i",
        "of the group": lambda _: None,
        "of both": lambda n: f"i{n}" if n % 2 else None,
    }
    person = Person(feed, dialect)
    return [PositionSubscription(f"s{n}", person, ONE, items[kind](n)) for n in range(number)]


KINDS = ["of items", "of one item", "of the group", "of both"]


@pytest.mark.parametrize("dialect", [TidelogDialect, MotiaDialect])
@pytest.mark.parametrize("kind", KINDS)
async def test_coming_and_going_is_linear(dialect: Callable[[], Any], kind: str) -> None:
    """Going live, falling behind as a commit is delivered, going live again, and ending: in one turn, each of them."""
    costs = []
    for number in (FEW, 2 * FEW):
        feed = open_feed()
        many = subscriptions(feed, dialect(), number, kind)
        person: Any = many[0].subscriber
        join = operations(lambda many=many, feed=feed: [feed.registry.go_live(one) for one in many])  # type: ignore[misc]
        publish(feed, commit(1))
        person.is_full = True
        feed.note_full(person)
        fall = operations(lambda feed=feed: publish(feed, commit(2)))  # type: ignore[misc]
        replay = feed.registry.behind(person)
        assert isinstance(replay, Replay)
        again = operations(replay._go_live)
        assert len(feed.registry.live_of(person)) == number
        publish(feed, commit(3))
        end = operations(lambda many=many, feed=feed, person=person: feed.leave(person, many))  # type: ignore[misc]
        assert feed.is_deserted
        costs.append((join, fall, again, end))
        await feed.close()
    for few, many_more in zip(*costs, strict=True):
        assert many_more < few * GROWTH_MAX


async def test_ending_while_it_catches_up_is_linear() -> None:
    """All of them are on their way with one reading of the log, and the connection is lost."""
    costs = []
    for number in (FEW, 2 * FEW):
        feed = open_feed()
        many = subscriptions(feed, TidelogDialect(), number, "of items")
        person, cursors = many[0].subscriber, dict.fromkeys(many, 0)
        feed.registry.note_stage(many, feed.lobby._replays.start(person, cursors, is_new=True))
        costs.append(operations(lambda many=many, feed=feed: feed.leave(many[0].subscriber, many)))  # type: ignore[misc]
        assert feed.is_deserted
        await feed.close()
    assert costs[1] < costs[0] * GROWTH_MAX


class Counting(TidelogDialect):
    def __init__(self) -> None:
        self.keys = 0

    def key(self, subscriptions: Iterable[Subscription]) -> Any:
        self.keys += 1
        return super().key(subscriptions)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_is_made_when_it_is_needed(kind: str) -> None:
    """Once for a delivery after any number came or went, and not at all for one that changes nothing."""
    feed, dialect = open_feed(), Counting()
    many = subscriptions(feed, dialect, FEW, kind)
    person: Any = many[0].subscriber
    for one in many:
        feed.registry.go_live(one)
    assert dialect.keys == 0
    for number in (1, 2, 3):
        publish(feed, commit(number, item="i0" if kind != "of one item" else "i"))
    assert (dialect.keys, person.positions) == (1, [1, 2, 3])
    for one in many[1:]:
        feed.unsubscribe(one)
    publish(feed, commit(4, item="i0" if kind != "of one item" else "i"))
    assert (dialect.keys, person.positions) == (2, [1, 2, 3, 4])
    assert person.got[-1]["subscriptions"] == ["s0"]


def test_names_are_those_of_the_moment() -> None:
    """Of several in one cohort each may come to want more or less, or leave, whoever was there first."""
    feed, dialect = open_feed(), TidelogDialect()
    people = [Person(feed, dialect) for _ in range(3)]
    ones = [PositionSubscription("a", person, ONE) for person in people]
    for one in ones:
        feed.registry.go_live(one)
    publish(feed, commit(1))
    item = PositionSubscription("b", people[0], ONE, "i")
    feed.registry.go_live(item)
    publish(feed, commit(2))
    feed.unsubscribe(ones[0])
    publish(feed, commit(3))
    publish(feed, commit(4, item="another"))
    feed.registry.go_live(ones[0])
    feed.unsubscribe(item)
    feed.unsubscribe(ones[1])
    publish(feed, commit(5))
    seen = [[(one["position"], one["subscriptions"]) for one in person.got] for person in people]
    all_that_time = [(number, ["a"]) for number in range(1, 6)]
    assert seen == [[(1, ["a"]), (2, ["a", "b"]), (3, ["b"]), (5, ["a"])], all_that_time[:4], all_that_time]


def test_who_left_is_kept_by_nobody() -> None:
    """Though it was the first of its cohort, whose message all the others get."""
    feed, dialect = open_feed(), TidelogDialect()
    first, second = (PositionSubscription("s", Person(feed, dialect), ONE) for _ in range(2))
    feed.registry.go_live(first)
    feed.registry.go_live(second)
    publish(feed, commit(1))
    feed.leave(first.subscriber, [first])
    (cohort,) = feed.registry._channels[ONE].audiences[dialect]._cohorts.values()
    assert list(cohort.interest.subscriptions) == [second]


def test_a_channel_can_be_delivered_to_alone() -> None:
    """Who can't be served is named, when everybody else has been."""
    feed, dialect = open_feed(), TidelogDialect()
    channel, change = Channel(), Change(1, "create", "i", 1, "{}")
    people = [Person(feed, dialect, fails_in=["write"] * (n == 0)) for n in range(2)]
    for person in people:
        channel.go_live(Subscription("s", person, ONE), dialect)
    with pytest.raises(UnservedError) as raised:
        deliver(CommitHead(1, 0.0), [Touched(ONE, channel, GroupCommit([change], []), [change])])
    assert list(raised.value.unserved) == [people[0]]
    assert people[1].positions == [1]


MANY_ROWS = 4000


@pytest.mark.parametrize("kind", ["changes", "events"])
async def test_a_large_commit_is_prepared_in_small_steps_and_a_further_name_costs_little(kind: str) -> None:
    """What is left for the turn in which it is delivered is little beside; and less still for each further name."""
    costs, step_costs = [], []
    for names in (1, 2):
        feed, dialect = open_feed(), TidelogDialect()
        people = [Person(feed, dialect).join(f"s{n}") for n in range(names)]
        for person in people:
            person.fails_in = ["write"]  # what is written is not looked at here
        changes = [Change(n, "update", f"i{n}", 2, "{}") for n in range(MANY_ROWS)]
        events = [Event(n, None, "t", "1") for n in range(MANY_ROWS)]
        part = GroupCommit(changes, []) if kind == "changes" else GroupCommit([], events)
        steps = prepare(CommitHead(1, 1.0), ONE, part, [dialect])
        while (step := operations(lambda steps=steps: next(steps, None))) > OPERATIONS_OF_NOTHING:  # type: ignore[misc]
            step_costs.append(step)
        one = Commit(1, 1, 1.0, {ONE: part})
        costs.append(operations(lambda feed=feed, one=one: publish(feed, one)))  # type: ignore[misc]
        await feed.close()
    total = sum(step_costs) / 2
    assert max(step_costs) < total / 20
    assert costs[0] < total / 4
    assert costs[1] - costs[0] < total / 5
