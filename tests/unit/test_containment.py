"""What can't be delivered to some, for a fault of ours, is delivered to all others, once; and the feed goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from tests.feed_insides import go_on_from
from tests.harness import eventually
from tidelog.errors import SnapshotTooLargeError, TidelogError
from tidelog.feed.broadcaster import Broadcaster
from tidelog.feed.catch_up.overlay import Overlay
from tidelog.feed.fan_out import Follower
from tidelog.feed.messages import Messages
from tidelog.feed.subscription import PositionSubscription, Subscription, SyncSubscription
from tidelog.model.change import Change, Commit, GroupCommit, Topic
from tidelog.model.position import Position
from tidelog.settings import Settings
from tidelog.store import archive as archive_module
from tidelog.store.archive import Archive
from tidelog.store.log import Head
from tidelog.store.snapshot import SnapshotHead
from tidelog.web.dialects.motia import MotiaDialect
from tidelog.web.dialects.tidelog import TidelogDialect

ONE, OTHER = Topic("chatMessage", "one"), Topic("chatMessage", "other")


class BugError(Exception):
    """A fault of ours."""


class Faulty(TidelogDialect):
    """A dialect in which one of the steps of a delivery fails for subscriptions, or in a group, named `bad`."""

    def __init__(self, step: str = "") -> None:
        self.step = step

    def key(self, subscriptions: Iterable[Subscription]) -> Any:
        self._fail("key", any(one.name == "bad" for one in subscriptions))
        return super().key(subscriptions)

    def pieces(self, head: Any, topic: Topic, *rest: Any) -> Any:
        self._fail("pieces", topic.group_id == "bad")
        return super().pieces(head, topic, *rest)

    def commit(self, head: Any, shares: Any) -> Messages:
        self._fail("commit", any(one.name == "bad" for share in shares for one in share.subscriptions))
        return super().commit(head, shares)

    def reset(self, subscription: Subscription, *rest: Any) -> Messages:
        self._fail("reset", subscription.name == "bad")
        return super().reset(subscription, *rest)

    def replay(self) -> TidelogDialect:
        self._fail("replay", True)
        return self

    def _fail(self, step: str, is_bad: bool) -> None:
        if step == self.step and is_bad:
            raise BugError(step)


class Person:
    """A subscriber, which fails in what it is told to fail in, and remembers the rest."""

    def __init__(self, feed: Broadcaster, dialect: Any = None, *, fails_in: Sequence[str] = ()) -> None:
        self.is_full = False
        self.dialect: Any = dialect or TidelogDialect()
        self.client = self.outlet = self
        self.got: list[Any] = []
        self.attempts = 0
        self.closed = 0
        self.fails_in = fails_in
        self._feed = feed
        self._gathered: list[Messages] | None = None
        feed.enter(self)

    def write(self, messages: Messages) -> None:
        if self._feed.cork.is_held:
            if self._gathered is None:
                self._gathered = []
                self._feed.cork.gather(self)
            self._gathered.append(messages)
        else:
            self._write(messages, "write")

    deliver = write

    def flush(self) -> None:
        gathered, self._gathered = self._gathered, None
        for messages in gathered or ():
            self._write(messages, "flush")

    def _write(self, messages: Messages, step: str) -> None:
        self.attempts += 1
        if step in self.fails_in:
            raise BugError(step)
        if not self.closed:
            self.got += [json.loads(payload) for payload in messages.payloads]

    @staticmethod
    def write_all(outlets: Iterable[Person], messages: Messages) -> None:
        for outlet in outlets:
            outlet.write(messages)

    async def drained(self) -> None:
        await asyncio.Event().wait()

    @property
    def taken(self) -> int:
        return 0

    @property
    def waiting_bytes(self) -> int:
        return 0

    def give_up(self, position: int | None) -> None:
        raise AssertionError

    def refuse(self, subscription: Subscription, error: TidelogError) -> None:
        self.deliver(self.dialect.refuse(subscription, error.code, str(error)))

    def fail(self) -> None:
        self.closed += 1
        if "close" in self.fails_in:
            raise BugError("close")

    def join(self, name: str = "s", topic: Topic = ONE, item: str | None = None) -> Person:
        """Have a live subscription."""
        self._feed.registry.go_live(PositionSubscription(name, self, topic, item))
        return self

    @property
    def positions(self) -> list[int]:
        return [message["position"] for message in self.got if message["type"] in ("commit", "reset")]


class Keeper:
    """A follower that can't keep."""

    def __init__(self) -> None:
        self.overflows = 0

    def keep(self, *_: object) -> None:
        raise BugError("keep")

    def overflow(self) -> None:
        self.overflows += 1


class NoArchive:
    """A database that doesn't answer, or a group that is empty."""

    def __init__(self, head: SnapshotHead | None = None) -> None:
        self._head = head

    @asynccontextmanager
    async def snapshot(self, *_: object) -> AsyncIterator[Any]:
        if self._head is None:
            await asyncio.Event().wait()
        yield self

    @property
    def head(self) -> SnapshotHead | None:
        return self._head

    async def batches(self, _columns: str) -> AsyncIterator[list[Any]]:
        for rows in ():
            yield rows


def open_feed(archive: object = None) -> Broadcaster:
    feed = Broadcaster(cast("Archive", archive or NoArchive()), Settings())
    feed.progress.epoch = "e"
    return feed


@pytest.fixture
def feed() -> Broadcaster:
    return open_feed()


def commit(number: int, *topics: Topic, changes: int = 1, item: str = "i") -> Commit:
    made = [Change(n, "update", f"{item}{n or ''}", number, "{}") for n in range(changes)]
    return Commit(number, number, float(number), {topic: GroupCommit(made, []) for topic in topics or (ONE,)})


def publish(feed: Broadcaster, *commits: Commit) -> None:
    """As the reader does; the position moves whatever happens."""
    feed.publish(commits)
    feed.settle()
    assert feed.progress.position == commits[-1].number


def assert_forgotten(feed: Broadcaster, person: Person) -> None:
    """It was closed, once, and nothing of it is left in the feed."""
    attempts = person.attempts
    publish(feed, commit(feed.progress.position + 1, ONE, OTHER))
    assert (person.closed, person.attempts) == (1, attempts)
    feed.leave(person, ())  # as its connection ends
    assert person not in feed.registry


@pytest.mark.parametrize("item", [None, "i"], ids=["of the group", "of an item"])
@pytest.mark.parametrize("topics", [(ONE,), (ONE, OTHER)], ids=["in one group", "in two"])
@pytest.mark.parametrize("bad", [0, 2, 4], ids=["the first", "one in the middle", "the last"])
def test_an_outlet_that_fails_costs_the_others_nothing(
    feed: Broadcaster, item: str | None, topics: Sequence[Topic], bad: int
) -> None:
    """Everybody else gets the commit exactly once, wherever among them it is, and all later ones."""
    dialect = TidelogDialect()
    people = [Person(feed, dialect, fails_in=["write"] if n == bad else []) for n in range(5)]
    for person in people:
        for topic in topics:
            person.join(f"s {topic.group_id}", topic, item)
    publish(feed, commit(1, *topics))
    publish(feed, commit(2, *topics))
    assert [person.positions for person in people] == [[] if n == bad else [1, 2] for n in range(5)]
    assert_forgotten(feed, people[bad])


def test_two_outlets_that_fail_and_one_that_does_not(feed: Broadcaster) -> None:
    dialect = TidelogDialect()
    people = [Person(feed, dialect, fails_in=["write"] * (n != 1)).join() for n in range(3)]
    publish(feed, commit(1))
    assert [(person.positions, person.closed) for person in people] == [([], 1), ([1], 0), ([], 1)]


@pytest.mark.parametrize("item", [None, "i"], ids=["of the group", "of an item"])
@pytest.mark.parametrize("step", ["key", "commit"])
def test_what_fails_for_some_names_ends_only_those(feed: Broadcaster, step: str, item: str | None) -> None:
    """A cohort whose message can't be made is closed; the others of its dialect and group are served."""
    dialect = Faulty(step)
    good, bad, more = (Person(feed, dialect).join(name, item=item) for name in ("good", "bad", "more"))
    publish(feed, commit(1))
    publish(feed, commit(2))
    assert (good.positions, bad.positions, more.positions) == ([1, 2], [], [1, 2])
    assert_forgotten(feed, bad)


@pytest.mark.parametrize("fault", ["in the dialect", "in the rows"])
def test_a_group_that_fails_ends_its_own_subscribers(feed: Broadcaster, fault: str) -> None:
    """Who is in two groups is not given a part of the commit with its position: it would not come back for the rest."""
    bad = Topic("chatMessage", "bad")
    dialect = Faulty("pieces" if fault == "in the dialect" else "")
    here, there, both = Person(feed, dialect), Person(feed, dialect), Person(feed, dialect)
    here.join("s", bad)
    there.join("s", ONE)
    both.join("1", ONE).join("2", bad)
    first = commit(1, ONE, bad, changes=2)
    if fault == "in the rows":
        first.groups[bad] = GroupCommit(cast("list[Change]", [None, None]), [])
    publish(feed, first)
    publish(feed, commit(2, ONE))
    assert (here.positions, there.positions, both.positions) == ([], [1, 2], [])
    assert_forgotten(feed, here)
    assert_forgotten(feed, both)


def test_a_dialect_that_fails_ends_its_own_connections(feed: Broadcaster) -> None:
    """In one group, though Motia's clients are served by the same commit."""
    bad = Topic("chatMessage", "bad")
    motia, tidelog = Person(feed, MotiaDialect()).join("s", bad), Person(feed, Faulty("pieces")).join("s", bad)
    publish(feed, commit(1, bad))
    assert (len(motia.got), tidelog.got) == (1, [])
    assert_forgotten(feed, tidelog)


def test_what_goes_out_together_fails_for_one_alone(feed: Broadcaster) -> None:
    """Commits that are written at once: whoever comes behind the one that fails is flushed, too."""
    dialect = TidelogDialect()
    people = [Person(feed, dialect, fails_in=["flush"] * (n == 1)).join() for n in range(3)]
    publish(feed, commit(1), commit(2))
    assert [person.positions for person in people] == [[1, 2], [], [1, 2]]
    assert_forgotten(feed, people[1])


def test_a_connection_that_cannot_even_be_closed_is_forgotten(feed: Broadcaster) -> None:
    bad, good = Person(feed, fails_in=["write", "close"]).join(), Person(feed).join()
    publish(feed, commit(1))
    assert good.positions == [1]
    assert_forgotten(feed, bad)


def test_a_fault_is_counted_and_told_once(feed: Broadcaster, caplog: pytest.LogCaptureFixture) -> None:
    """Not at each commit, nor for each connection; another cause is told, too."""
    dialect = TidelogDialect()
    for number in range(1, 4):
        for _ in range(2):
            Person(feed, dialect, fails_in=["write"]).join()
        publish(feed, commit(number))
    assert feed.failures.connections == 6
    assert len(caplog.records) == 1
    assert "BugError: write" in caplog.text
    Person(feed, Faulty("commit")).join("bad")
    publish(feed, commit(4))
    assert (feed.failures.connections, len(caplog.records), len(feed.failures.causes)) == (7, 2, 2)


def test_one_on_its_way_that_cannot_keep_a_commit_reads_it(feed: Broadcaster) -> None:
    """Those that are live are served all the same, each once."""
    keeper, good = Keeper(), Person(feed).join()
    feed.registry.attach(ONE, cast("Follower", keeper))
    publish(feed, commit(1))
    assert (keeper.overflows, good.positions) == (1, [1])


async def test_an_overlay_that_fails_keeps_nobody_waiting(feed: Broadcaster) -> None:
    """Those that it was for hear of it. The others are told that they are complete, and the feed goes on."""
    told = []
    overlays = [Overlay(raising), Overlay(lambda: told.append(1)), Overlay(raising)]
    for overlay in overlays:
        feed.registry.attach_to_snapshot(ONE, overlay)
        overlay.expect(SnapshotHead(1, "e", frozenset()), feed.progress.position)
    waiting = asyncio.create_task(feed.progress.reached(1, feed.progress.generation))
    await asyncio.sleep(0)
    publish(feed, commit(1))
    assert await waiting
    assert told
    settled = await asyncio.gather(*(overlay.settled() for overlay in overlays), return_exceptions=True)
    assert [type(outcome) for outcome in settled] == [BugError, str, BugError]


def raising() -> None:
    raise BugError


def test_a_status_that_one_cannot_be_told_is_told_to_the_others(feed: Broadcaster) -> None:
    people = [Person(feed, fails_in=["write"] * (n == 1)).join() for n in range(3)]
    feed.tell_status(interrupted=True)
    assert [len(person.got) for person in people] == [1, 0, 1]
    assert_forgotten(feed, people[1])
    late = Person(feed, fails_in=["write"])
    assert_forgotten(feed, late)


@pytest.mark.parametrize("begin", ["after a commit that is too large", "after a gap", "in another history"])
async def test_one_that_cannot_begin_again_leaves_the_others_to(feed: Broadcaster, begin: str) -> None:
    dialect = Faulty("reset")
    good, bad, more = (Person(feed, dialect).join(name) for name in ("good", "bad", "more"))
    if begin == "after a commit that is too large":
        large = commit(1)
        large.truncated = True
        publish(feed, large)
    elif begin == "after a gap":
        publish(feed, commit(3, OTHER))
    else:
        feed.go_back(Head(1, 0.0, "f", 0.0, -1))
    assert [len(person.positions) for person in (good, bad, more)] == [1, 0, 1]
    assert_forgotten(feed, bad)
    await feed.close()


async def test_one_that_comes_back_and_cannot_begin_again_is_closed() -> None:
    """It can't go on from where it was, and can't be told so: it does not wait for ever."""
    feed = open_feed(Standing())
    bad = Person(feed, Faulty("reset"))
    feed.subscribe(PositionSubscription("bad", bad, ONE, None, Position(1, "another")))
    await eventually(lambda: bad.closed, 5)
    assert_forgotten(feed, bad)
    await feed.close()


async def test_one_that_cannot_be_diverted_stops_nobody(feed: Broadcaster) -> None:
    """It is full, and its reading of the log can't begin."""
    bad, good = Person(feed, Faulty("replay")).join(), Person(feed).join()
    bad.is_full = True
    feed.note_full(bad)
    publish(feed, commit(1))
    assert good.positions == [1]
    assert_forgotten(feed, bad)


@pytest.mark.parametrize("fault", ["in one", "in all"])
async def test_a_shared_snapshot_that_one_cannot_be_given(fault: str) -> None:
    """The others that wait for the same one get it, and are live; if it can't be made, all of them are closed."""
    feed = open_feed(NoArchive(SnapshotHead(0, "e", frozenset())))
    dialect = MotiaDialect() if fault == "in one" else Unsynced()
    people = [Person(feed, dialect, fails_in=["write"] * (n == 1 and fault == "in one")) for n in range(3)]
    for person in people:
        feed.subscribe(SyncSubscription("s", person, ONE))
    await eventually(lambda: all(person.got or person.closed for person in people))
    publish(feed, commit(1))
    bad = [1] if fault == "in one" else [0, 1, 2]
    assert [len(person.got) for person in people] == [0 if n in bad else 2 for n in range(3)]
    for n in bad:
        assert_forgotten(feed, people[n])
    await feed.close()


async def test_a_refusal_that_one_cannot_be_told_is_told_to_the_others() -> None:
    """They wait for the same snapshot, which can't be had."""
    feed = open_feed(Refusing())
    dialect = MotiaDialect()
    people = [Person(feed, dialect, fails_in=["write"] * (n == 1)) for n in range(3)]
    for person in people:
        feed.subscribe(SyncSubscription("s", person, ONE))
    await eventually(lambda: all(person.got or person.closed for person in people))
    assert [(len(person.got), person.closed) for person in people] == [(1, 0), (0, 1), (1, 0)]
    assert_forgotten(feed, people[1])
    await feed.close()


async def test_one_that_fails_while_it_catches_up_is_closed_alone(
    feed: Broadcaster, caplog: pytest.LogCaptureFixture
) -> None:
    """It is at the present, and can't be told."""
    good, bad = Person(feed).join(), Person(feed, fails_in=["write"])
    subscription = PositionSubscription("s", bad, ONE)
    go_on_from(feed, subscription, 0)
    await eventually(lambda: bad.closed)
    publish(feed, commit(1))
    assert (good.positions, good.closed, bad.attempts, bad.closed) == ([1], 0, 1, 1)
    assert "BugError: write" in caplog.text
    feed.leave(good, ())
    assert feed.is_deserted


class Standing(NoArchive):
    async def standing(self, _epoch: str) -> archive_module.Standing:
        return archive_module.Standing(head=0, floor=0, shared=-1, is_present=False)


class Refusing(NoArchive):
    @asynccontextmanager
    async def snapshot(self, *_: object) -> AsyncIterator[Any]:
        raise SnapshotTooLargeError("too large")
        yield


class Unsynced(MotiaDialect):
    def sync(self, *_: object) -> Messages:
        raise BugError
