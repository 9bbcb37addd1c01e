"""What one run recorded: what was done to the database, what its log says, what every subscriber received.

A history is plain data that can be saved and checked again without the run: see check.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter

Document = dict[str, Any]


class Group(NamedTuple):
    """A group of a stream."""

    stream: str
    group_id: str


class Channel(NamedTuple):
    """What can be subscribed to: a group, or one item of it."""

    stream: str
    group_id: str
    item_id: str | None

    @property
    def group(self) -> Group:
        return Group(self.stream, self.group_id)


class CommitRow(NamedTuple):
    """A row of streams.commit."""

    number: int
    xid: int
    at_us: int


class ChangeRow(NamedTuple):
    """A row of streams.change."""

    seq: int
    xid: int
    stream: str
    group_id: str
    id: str
    op: str
    version: int
    data: Document


class EventRow(NamedTuple):
    """A row that was in streams.event for a while."""

    seq: int
    xid: int
    stream: str
    group_id: str
    id: str | None
    data: Document


class ItemRow(NamedTuple):
    """A row of a stream's table when everything was over."""

    stream: str
    group_id: str
    id: str
    version: int
    data: Document


class Effect(NamedTuple):
    """What a writer knows that it did. Of a delete, the stamp of the item that went (None: not known)."""

    kind: Literal["set", "delete", "event"]
    stream: str
    group_id: str
    id: str | None
    stamp: str | None


class Transaction(NamedTuple):
    """What a writer tried to do in one transaction, in order, and what it was told."""

    writer: str
    xid: int | None  # None: the writer was not told
    outcome: Literal["committed", "rolled back", "unknown"]
    acknowledged_at: int | None  # nanoseconds of the recording machine's monotonic clock
    effects: list[Effect]


class Record(NamedTuple):
    """One thing on a subscriber's connection: what it sent (join, leave), or a frame that came."""

    at: int  # nanoseconds of the recording machine's monotonic clock
    kind: Literal["join", "leave", "frame"]
    body: Document


@dataclass
class Connection:
    """Everything on one connection, in order. A complete one went on until all that was written had come."""

    server: str
    records: list[Record] = field(default_factory=list)
    is_complete: bool = False
    ended: str = ""


@dataclass
class Subscriber:
    """One client and its connections, one after the other."""

    name: str
    dialect: Literal["motia", "tidelog.v1"]
    connections: list[Connection] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """How many frames it received."""
        return sum(record.kind == "frame" for connection in self.connections for record in connection.records)


@dataclass
class History:
    """All of one run."""

    seed: int
    seconds: float
    started_at: int = 0  # of the same clock as the records
    started_at_us: int = 0  # the same moment on the database's clock
    faults: list[tuple[int, str, str]] = field(default_factory=list)  # when, which, to whom
    commits: list[CommitRow] = field(default_factory=list)
    changes: list[ChangeRow] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    items: list[ItemRow] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)
    subscribers: list[Subscriber] = field(default_factory=list)
    may_lose_events: bool = False  # Postgres crashed: its unlogged tables are emptied then
    trouble: list[str] = field(default_factory=list)  # what went wrong beside what the checker finds
    logs: dict[str, str] = field(default_factory=dict)  # what each server process wrote to its output

    def save(self, path: Path) -> None:
        path.write_bytes(_ADAPTER.dump_json(self))

    @staticmethod
    def load(path: Path) -> History:
        return _ADAPTER.validate_json(path.read_bytes())

    @property
    def frames(self) -> int:
        """How many frames all subscribers received."""
        return sum(subscriber.frames for subscriber in self.subscribers)

    @property
    def connections(self) -> int:
        """How many connections all subscribers had."""
        return sum(len(subscriber.connections) for subscriber in self.subscribers)

    @property
    def longest_wait_seconds(self) -> float:
        """From the acknowledgement of a commit to its number, at the most. To be looked at; it proves nothing."""
        acknowledged = {t.xid: t.acknowledged_at for t in self.transactions if t.acknowledged_at is not None}
        waits = [
            (commit.at_us - self.started_at_us) / 1e6 - (acknowledged[commit.xid] - self.started_at) / 1e9
            for commit in self.commits
            if commit.xid in acknowledged
        ]
        return max(waits, default=0.0)


_ADAPTER = TypeAdapter(History)
