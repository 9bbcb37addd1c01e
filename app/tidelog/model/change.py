"""What happened: changes and events, gathered in numbered commits, and their net effect on a group."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

STEP_ROWS = 64  # of work that is done by and by: some tenths of a millisecond

Operation = Literal["create", "update", "delete"]


class Topic(NamedTuple):
    """What people subscribe to: a group of a stream."""

    stream: str
    group_id: str


@dataclass(frozen=True, slots=True)
class Change:
    """One create, update or delete of an item. `data` is JSON text; of a delete, the item as it was."""

    seq: int
    op: Operation
    id: str
    version: int
    data: str


@dataclass(frozen=True, slots=True)
class Event:
    """An ephemeral message to a group's subscribers, or to those of one item. `data` is JSON text."""

    seq: int
    id: str | None
    type: str
    data: str


@dataclass(slots=True)
class GroupCommit:
    """The part of one commit that concerns one group, in the order in which it was written."""

    changes: list[Change]
    events: list[Event]
    # Of a large one, made by and by before it is delivered: the net changes, and what each dialect keeps for itself.
    net: Sequence[Change] | None = field(default=None, compare=False, repr=False)
    prepared: dict[object, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def rows(self) -> int:
        return len(self.changes) + len(self.events)

    @property
    def size(self) -> int:
        """Characters of all that its rows hold."""
        changes = sum(len(change.data) + len(change.id) for change in self.changes)
        return changes + sum(len(event.data) + len(event.type) + len(event.id or "") for event in self.events)


@dataclass(slots=True)
class Commit:
    """One transaction's changes. Its number is its place in the feed; numbers have no gaps."""

    number: int
    xid: int
    at_ms: float  # Unix epoch milliseconds, with microseconds in the fraction
    groups: dict[Topic, GroupCommit]
    truncated: bool = False  # too big to be carried whole: its subscribers need a new snapshot
    unreadable: frozenset[Topic] = frozenset()  # of its groups: the database can't tell what happened there
    forgotten: frozenset[str] = frozenset()  # streams of which, from this commit on, changes were removed unread


def net_changes(changes: Sequence[Change]) -> Sequence[Change]:
    """One change for each item, told against the state before the commit, in the order of the last writes.

    Deleted and created again is an update; created and deleted is nothing.
    """
    if len(changes) == 1:
        return changes
    steps = net_changes_in_steps(changes)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            net: Sequence[Change] = end.value
            return net


def net_changes_in_steps(changes: Sequence[Change]) -> Generator[None, None, Sequence[Change]]:
    """The same, some rows at a step."""
    first: dict[str, Operation] = {}
    last: dict[str, Change] = {}
    for begin in range(0, len(changes), STEP_ROWS):
        for change in changes[begin : begin + STEP_ROWS]:
            first.setdefault(change.id, change.op)
            last.pop(change.id, None)
            last[change.id] = change
        yield
    net = []
    for number, change in enumerate(last.values(), start=1):
        existed_before = first[change.id] != "create"
        exists_after = change.op != "delete"
        if existed_before or exists_after:
            op: Operation = "delete" if not exists_after else "update" if existed_before else "create"
            net.append(change if change.op == op else Change(change.seq, op, change.id, change.version, change.data))
        if number % STEP_ROWS == 0:
            yield
    return net
