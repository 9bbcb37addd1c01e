"""What the state machine believes: every commit as it was written, and from it what each group looks like where.

It knows nothing of how Tidelog works: not its net changes, nor its snapshots.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Key(NamedTuple):
    """An item's place."""

    stream: str
    group: str
    id: str


class Target(NamedTuple):
    """What is subscribed to: a group or, with `id`, one item of it."""

    stream: str
    group: str
    id: str | None

    def has(self, key: Key) -> bool:
        return (key.stream, key.group) == (self.stream, self.group) and self.id in (None, key.id)


class Item(NamedTuple):
    version: int
    data: dict[str, Any]


class NetChange(NamedTuple):
    """What subscribers should be told of an item; of a delete, the item as it was."""

    op: str
    key: Key
    item: Item


@dataclass(eq=False)
class Transaction:
    """One that is being written. `last` has what was written last to each item (None: it was deleted), in order."""

    model: Model
    last: dict[Key, Item | None] = field(default_factory=dict)
    deleted: dict[Key, Item] = field(default_factory=dict)
    touched: set[Key] = field(default_factory=set)  # what others must keep off until it ends
    xid: int = 0

    def put(self, key: Key, data: dict[str, Any]) -> None:
        before = self._get(key)
        if before is None or before.data != data:
            self._write(key, Item(1 if before is None else before.version + 1, data))

    def delete(self, key: Key) -> None:
        before = self._get(key)
        if before is not None:
            self.deleted[key] = before
            self._write(key, None)

    def _get(self, key: Key) -> Item | None:
        return self.last[key] if key in self.last else self.model.items.get(key)

    def _write(self, key: Key, item: Item | None) -> None:
        self.last.pop(key, None)
        self.last[key] = item


@dataclass
class Model:
    """The commits of one example, in the order of their numbers, and those that have none yet."""

    items: dict[Key, Item] = field(default_factory=dict)  # what is committed now
    open: list[Transaction] = field(default_factory=list)
    unnumbered: dict[int, Transaction] = field(default_factory=dict)
    commits: dict[int, list[NetChange]] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)  # commits that are only events, by the events' type
    floor: int = 0
    _folded: dict[Key, Item] = field(default_factory=dict)  # after the last of `commits`

    def commit(self, transaction: Transaction) -> None:
        for key, item in transaction.last.items():
            if item is None:
                self.items.pop(key, None)  # it may have been created in here, too
            else:
                self.items[key] = item
        if transaction.last:
            self.unnumbered[transaction.xid] = transaction

    def number(self, numbers: dict[int, int]) -> None:
        """Take in the numbers, by xid, of all that had none."""
        assert numbers.keys() == self.unnumbered.keys()
        for xid, number in sorted(numbers.items(), key=lambda pair: pair[1]):
            assert number > max(self.commits, default=0), "a commit was numbered behind one that was told before it"
            transaction = self.unnumbered.pop(xid)
            net = (self._net(key, item, transaction) for key, item in transaction.last.items())
            self.commits[number] = [change for change in net if change is not None]
            _apply(self._folded, self.commits[number])
        assert self._folded == self.items, "the numbers are not in the order of the writes"

    def fold(self, position: int, target: Target) -> dict[str, Item]:
        """The items as of a position."""
        items: dict[Key, Item] = {}
        for number, changes in self.commits.items():
            if number <= position:
                _apply(items, [change for change in changes if target.has(change.key)])
        return {key.id: item for key, item in items.items()}

    def between(self, after: int, before: int, target: Target) -> Iterator[int]:
        """The commits that a subscriber to `target` must be told of, with numbers between the two."""
        for number, changes in self.commits.items():
            if after < number < before and any(target.has(change.key) for change in changes):
                yield number

    def locked(self) -> set[Key]:
        return {key for transaction in self.open for key in transaction.touched}

    def _net(self, key: Key, item: Item | None, transaction: Transaction) -> NetChange | None:
        """Told against the state before the commit."""
        existed = key in self._folded
        if item is None:
            return NetChange("delete", key, transaction.deleted[key]) if existed else None
        return NetChange("update" if existed else "create", key, item)


def _apply(items: dict[Key, Item], changes: list[NetChange]) -> None:
    for op, key, item in changes:
        if op == "delete":
            del items[key]
        else:
            items[key] = item
