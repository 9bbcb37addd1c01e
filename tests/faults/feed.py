"""The feed as the database's log says that it must have been: the oracle that subscribers are held against."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.faults.history import ChangeRow, Channel, Document, EventRow, Group, History

Items = dict[str, Document]


class Message(NamedTuple):
    """What makes a net change or an event one of its kind: every write has a stamp of its own."""

    kind: str  # create, update, delete, event
    stream: str
    group_id: str
    id: str | None
    stamp: str

    def concerns(self, channel: Channel) -> bool:
        return (
            self.stream == channel.stream and self.group_id == channel.group_id and channel.item_id in (None, self.id)
        )


class Feed:
    """Net changes and events of every commit, and the state of every group at every position."""

    def __init__(self, history: History) -> None:
        self.number_of = {commit.xid: commit.number for commit in history.commits}
        self.head = max(self.number_of.values(), default=0)
        self.data: dict[Message, Document] = {}
        self.commit_of: dict[Message, int] = {}
        self.version_of: dict[Message, int] = {}
        self._messages: dict[tuple[int, Group], list[Message]] = defaultdict(list)
        self._versions: dict[tuple[Channel, str], int] = {}  # of an item as it was written with a stamp
        self._groups: dict[int, list[Group]] = defaultdict(list)
        self._due: dict[Channel, list[int]] = defaultdict(list)
        self._states: dict[Channel, list[tuple[int, Document | None]]] = defaultdict(list)
        # Where a crash may have emptied the table of events before anybody saw them, their place is not known.
        self.loose: set[Message] = set(_sent(history)) if history.may_lose_events else set()
        events = [] if history.may_lose_events else history.events
        for number, group, changes, sent in self._parts(history.changes, events):
            self._add(number, group, changes, sent)

    def messages(self, number: int, group: Group) -> list[Message]:
        """What a subscriber of the whole group gets of this commit, in order."""
        return self._messages.get((number, group), [])

    def groups(self, number: int) -> list[Group]:
        """The groups that this commit has messages for."""
        return self._groups[number]

    def next_due(self, channels: Iterable[Channel], after: int) -> int | None:
        """The first commit after this position with a message for one of the channels."""
        found = []
        for channel in channels:
            due = self._due.get(channel, [])
            index = bisect_right(due, after)
            if index < len(due):
                found.append(due[index])
        return min(found, default=None)

    def next_change(self, channel: Channel, after: int) -> int | None:
        """The first commit after this position with a change for the channel; events don't count."""
        found = []
        for state in self._of(channel):
            moves = self._states[state]
            index = bisect_right(moves, after, key=lambda move: move[0])
            if index < len(moves):
                found.append(moves[index][0])
        return min(found, default=None)

    def versions(self, channel: Channel, position: int) -> dict[str, tuple[int, Document]]:
        """The channel's items with their versions by id, as of this position."""
        return {
            id: (self._versions[Channel(*channel.group, id), stamp_of(data)], data)
            for id, data in self.items(channel, position).items()
        }

    def due_between(self, channel: Channel, after: int, before: int) -> list[int]:
        """The commits between these positions with a message for the channel."""
        due = self._due.get(channel, [])
        return due[bisect_right(due, after) : bisect_left(due, before)]

    def last_due(self, channels: Iterable[Channel], before: int) -> int:
        """The last commit before this one with a message for one of the channels; 0 if there is none."""
        found = [0]
        for channel in channels:
            due = self._due.get(channel, [])
            index = bisect_left(due, before)
            if index:
                found.append(due[index - 1])
        return max(found)

    def items(self, channel: Channel, position: int) -> Items:
        """The channel's items by id, as of this position."""
        items = {}
        for state in self._of(channel):
            data = self._data_at(state, position)
            if data is not None and state.item_id is not None:
                items[state.item_id] = data
        return items

    def positions(self, channel: Channel, items: Items, low: int, high: int) -> list[tuple[int, int]]:
        """Every stretch of positions from low to high at which the channel's items were exactly these."""
        moves = [
            (number, state.item_id or "", data)
            for state in self._of(channel)
            for number, data in self._states[state]
            if low < number <= high
        ]
        moves.sort(key=lambda move: move[0])
        current = self.items(channel, low)
        stretches: list[tuple[int, int]] = []
        start = low
        index = 0
        while start <= high:
            while index < len(moves) and moves[index][0] <= start:
                _apply(current, moves[index][1], moves[index][2])
                index += 1
            end = min(moves[index][0] - 1, high) if index < len(moves) else high
            if current == items:
                stretches.append((start, end))
            start = end + 1
        return stretches

    def _of(self, channel: Channel) -> list[Channel]:
        if channel.item_id is not None:
            return [channel] if channel in self._states else []
        return [one for one in self._states if one.group == channel.group]

    def _data_at(self, state: Channel, position: int) -> Document | None:
        moves = self._states[state]
        index = bisect_right(moves, position, key=lambda move: move[0])
        return moves[index - 1][1] if index else None

    def _parts(
        self, changes: list[ChangeRow], events: list[EventRow]
    ) -> Iterator[tuple[int, Group, list[ChangeRow], list[EventRow]]]:
        parts: dict[tuple[int, Group], tuple[list[ChangeRow], list[EventRow]]] = defaultdict(lambda: ([], []))
        for change in sorted(changes):
            if change.xid in self.number_of:
                parts[self.number_of[change.xid], Group(change.stream, change.group_id)][0].append(change)
        for event in sorted(events, key=lambda event: event.seq):
            if event.xid in self.number_of:
                parts[self.number_of[event.xid], Group(event.stream, event.group_id)][1].append(event)
        for (number, group), (changed, sent) in sorted(parts.items(), key=lambda part: part[0]):
            yield number, group, changed, sent

    def _add(self, number: int, group: Group, changes: list[ChangeRow], events: list[EventRow]) -> None:
        messages = []
        for change, op in net(changes):
            message = Message(op, *group, change.id, stamp_of(change.data))
            messages.append(message)
            self.data[message] = change.data
            self.version_of[message] = change.version
            self._versions[Channel(*group, change.id), message.stamp] = change.version
            self._states[Channel(*group, change.id)].append((number, None if op == "delete" else change.data))
        for event in events:
            message = Message("event", *group, event.id, stamp_of(event.data))
            messages.append(message)
            self.data[message] = event.data
        if not messages:
            return
        self._messages[number, group] = messages
        self._groups[number].append(group)
        self.commit_of.update(dict.fromkeys(messages, number))
        self._due[Channel(*group, None)].append(number)
        for id in {message.id for message in messages} - {None}:
            self._due[Channel(*group, id)].append(number)


def net(changes: list[ChangeRow]) -> list[tuple[ChangeRow, str]]:
    """Each item's last change with its net operation, told against the state before the commit."""
    first: dict[str, ChangeRow] = {}
    last: dict[str, ChangeRow] = {}
    for change in changes:
        first.setdefault(change.id, change)
        last[change.id] = change
    effect = []
    for id, change in sorted(last.items(), key=lambda pair: pair[1].seq):
        was_there = first[id].op != "create"
        is_there = change.op != "delete"
        if was_there or is_there:
            effect.append((change, "delete" if not is_there else "update" if was_there else "create"))
    return effect


def stamp_of(data: Document) -> str:
    return str(data.get("stamp"))


def _sent(history: History) -> Iterator[Message]:
    for transaction in history.transactions:
        for effect in transaction.effects:
            if effect.kind == "event" and transaction.outcome != "rolled back":
                yield Message("event", effect.stream, effect.group_id, effect.id, str(effect.stamp))


def _apply(items: Items, id: str, data: Document | None) -> None:
    if data is None:
        items.pop(id, None)
    else:
        items[id] = data
