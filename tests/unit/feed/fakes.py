"""A log and tables in memory, connections without a network, and the parts of a feed on top of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from tidelog.errors import TidelogError
from tidelog.fair import Claim
from tidelog.feed.budget import Budget
from tidelog.feed.catch_up.means import Means
from tidelog.feed.cork import Cork
from tidelog.feed.draining import Draining
from tidelog.feed.messages import Messages
from tidelog.feed.patience import Patience
from tidelog.feed.progress import Progress
from tidelog.feed.registry import Registry
from tidelog.feed.subscription import PositionSubscription, Subscription, SyncSubscription
from tidelog.feed.tasks import Tasks
from tidelog.feed.trouble import Troubles
from tidelog.feed.turns import Turns
from tidelog.model.change import Change, Commit, GroupCommit, Operation, Topic
from tidelog.model.position import Position
from tidelog.store.archive import Archive, ForgottenError, Standing
from tidelog.store.reading import Page, PageRequest
from tidelog.store.snapshot import SnapshotHead
from tidelog.web.dialects.motia import MotiaDialect
from tidelog.web.dialects.tidelog import TidelogDialect

EPOCH = "e"
ONE, OTHER = Topic("note", "one"), Topic("note", "other")


class ByPages(TidelogDialect):
    """tidelog.v1, of whose messages the database makes none."""

    def ready(self, _subscriptions: Sequence[Subscription]) -> None:
        return None

    def replay(self) -> ByPages:
        return ByPages()


TIDELOG, MOTIA = ByPages(), MotiaDialect()


@dataclass
class FakeArchive:
    """What there is in the database. Who reads waits where a test holds him: `held["snapshot"] = asyncio.Event()`."""

    commits: list[Commit] = field(default_factory=list)
    items: dict[Topic, dict[str, tuple[int, str]]] = field(default_factory=dict)
    numbered: int = 0  # of the commits; the rest is visible in the tables already
    floor: int = 0
    stream_floors: dict[str, int] = field(default_factory=dict)
    epoch: str = EPOCH
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)  # what was read, in order
    errors: dict[str, list[Exception]] = field(default_factory=dict)  # what the next reads of a kind raise

    def write(self, *topics: Topic, id: str = "i", op: Operation = "update", number: bool = True) -> Commit:
        """A commit that writes the item in each of the topics; without a number if `number` is False."""
        next_one = len(self.commits) + 1
        data = json.dumps({"id": id, "n": next_one})
        groups = {topic: GroupCommit([Change(next_one, op, id, next_one, data)], []) for topic in topics or (ONE,)}
        commit = Commit(next_one, 1000 + next_one, float(next_one), groups)
        self.commits.append(commit)
        for topic in groups:
            table = self.items.setdefault(topic, {})
            if op == "delete":
                table.pop(id, None)
            else:
                table[id] = (next_one, data)
        if number:
            self.numbered = next_one
        return commit

    async def _read(self, what: str) -> None:
        self.reads.append(what)
        if self.errors.get(what):
            raise self.errors[what].pop(0)
        if what in self.held:
            await self.held[what].wait()

    @asynccontextmanager
    async def snapshot(self, topic: Topic, item_id: str | None, _claim: Claim) -> AsyncIterator[FakeSnapshot]:
        await self._read("snapshot")
        table = self.items.get(topic, {})
        rows = [(id, *rest) for id, rest in table.items() if item_id in (None, id)]
        unnumbered = frozenset(one.xid for one in self.commits[self.numbered :] if topic in one.groups)
        yield FakeSnapshot(self, SnapshotHead(self.numbered, self.epoch, unnumbered), rows)

    def _check(self, number: int, cursors: Mapping[str, int]) -> None:
        if number <= self.floor:
            raise ForgottenError
        floors = self.stream_floors.items()
        missed = {one: floor for one, floor in floors if one in cursors and floor > max(number - 1, cursors[one])}
        if missed:
            raise ForgottenError("", missed)

    async def page(
        self, request: PageRequest, topics: Collection[Topic], cursors: Mapping[str, int], _claim: Claim
    ) -> Page:
        await self._read("page")
        self._check(request.number, cursors)
        rows = [
            (one.number, one.xid, one.at_ms, "change", change.seq, *topic, *self._content(one, change))
            for one in self.commits[request.number - 1 : request.last]
            for topic, part in one.groups.items()
            if topic in topics
            for change in part.changes
        ]
        return Page(rows, more=False)

    @staticmethod
    def _content(commit: Commit, change: Change) -> tuple[Any, ...]:
        """Id, operation, version and data; of what is too large the database answers none."""
        if commit.truncated:
            return (None, None, 1, None)
        return (change.id, change.op, change.version, change.data)

    async def next_wanted(
        self, number: int, last: int, topics: Collection[Topic], cursors: Mapping[str, int], _claim: Claim
    ) -> int:
        self._check(number + 1, cursors)
        found = (one.number - 1 for one in self.commits[number:last] if any(topic in one.groups for topic in topics))
        return next(found, last)

    async def standing(self, epoch: str, _claim: Claim) -> Standing:
        await self._read("standing")
        shared = self.numbered if epoch == self.epoch else -1
        return Standing(self.numbered, self.floor, shared, epoch == self.epoch, self.stream_floors)

    async def touched(
        self, commit: Commit, topics: Collection[Topic], _cursors: Mapping[str, int], _claim: Claim
    ) -> Collection[Topic]:
        return [topic for topic in topics if topic in commit.groups]


class FakeSnapshot:
    def __init__(self, archive: FakeArchive, head: SnapshotHead, rows: Sequence[tuple[str, int, str]]) -> None:
        self.head = head
        self._archive = archive
        self._rows = rows

    async def batches(self, columns: str) -> AsyncGenerator[Sequence[Any], None]:
        await self._archive._read("items")
        yield self._rows if "version" in columns else [(id, data) for id, _, data in self._rows]


class Person:
    """A connection that keeps what it is sent, parsed."""

    def __init__(self, dialect: Any = TIDELOG) -> None:
        self.dialect = dialect
        self.client = self.outlet = self
        self.got: list[Any] = []
        self.refused: list[str] = []
        self.fails: Exception | None = None  # what writing to it raises
        self.has_failed = self.is_given_up = False
        self.taken = 0
        self._room = asyncio.Event()
        self._room.set()

    @property
    def is_full(self) -> bool:
        return not self._room.is_set()

    @is_full.setter
    def is_full(self, is_full: bool) -> None:
        (self._room.clear if is_full else self._room.set)()

    @property
    def waiting_bytes(self) -> int:
        return 100 if self.is_full else 0

    def write(self, messages: Messages) -> None:
        if self.fails is not None:
            raise self.fails
        self.got += [json.loads(payload) for payload in messages.payloads]

    deliver = write

    @staticmethod
    def write_all(outlets: Iterable[Person], messages: Messages) -> None:
        for outlet in outlets:
            outlet.write(messages)

    async def drained(self) -> None:
        await self._room.wait()

    def give_up(self, _position: int | None) -> None:
        self.is_given_up = True

    def refuse(self, _subscription: Subscription, error: TidelogError) -> None:
        self.refused.append(error.code)

    def fail(self) -> None:
        self.has_failed = True

    def of(self, topic: Topic = ONE, name: str = "s", item: str | None = None, since: int | None = None) -> Any:
        """A subscription of its dialect's kind."""
        if isinstance(self.dialect, MotiaDialect):
            return SyncSubscription(name, self, topic, item)
        return PositionSubscription(name, self, topic, item, None if since is None else Position(since, EPOCH))

    @property
    def types(self) -> list[str]:
        """What it was sent, in short: each message's type, of a commit its number, of an event what it is of."""
        return [self._short(message) for message in self.got]

    @property
    def items(self) -> dict[str, int]:
        """The last snapshot or sync, as the numbers of the commits that wrote its items."""
        for message in reversed(self.got):
            if message.get("type") == "snapshot":
                return {item["data"]["id"]: item["data"]["n"] for item in message["items"]}
            if message.get("event", {}).get("type") == "sync":
                return {item["id"]: item["n"] for item in message["event"]["data"]}
        raise AssertionError(self.got)

    def _short(self, message: Any) -> str:
        if "event" in message:
            return str(message["event"]["type"])
        return f"commit {message['position']}" if message["type"] == "commit" else str(message["type"])


@dataclass
class Parts:
    """Everything below the lobby."""

    archive: FakeArchive = field(default_factory=FakeArchive)
    progress: Progress = field(default_factory=Progress)
    registry: Registry = field(default_factory=Registry)
    budget: Budget = field(default_factory=lambda: Budget(2**20, 2**20, 5.0))
    troubles: Troubles = field(default_factory=Troubles)
    refused: list[tuple[Subscription, str]] = field(default_factory=list)
    unserved: dict[Any, Exception] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.progress.epoch = EPOCH
        self.tasks = Tasks(
            self.troubles,
            lambda subscription, error: self.refused.append((subscription, error.code)),
            self.unserved.update,
        )
        self.patience = Patience(5.0, self.progress, lambda: False, self.troubles)
        archive = cast("Archive", self.archive)
        self.means = Means(archive, self.progress, self.registry, self.budget, Draining(5.0), Turns(), Cork())

    def write(self, *topics: Topic, id: str = "i", op: Operation = "update") -> Commit:
        """A commit that is numbered and published, to those on their way alone."""
        commit = self.archive.write(*topics, id=id, op=op)
        self.publish(commit)
        return commit

    def publish(self, commit: Commit) -> None:
        """As the publisher does, for followers."""
        for topic, part in commit.groups.items():
            channel = self.registry.channel(topic)
            for follower in () if channel is None else list(channel.followers):
                follower.keep(commit, topic, part, part.changes)
        self.progress.advance(commit.number, commit.at_ms)
        self.settle()

    def settle(self) -> None:
        for follower in self.registry.snapshot_followers:
            follower.check(self.progress.position)
        self.progress.tell()


async def turns(count: int = 20) -> None:
    """Let everybody go on who can."""
    for _ in range(count):
        await asyncio.sleep(0)
