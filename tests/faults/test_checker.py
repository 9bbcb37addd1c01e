"""The checker itself: it takes a history that is right, and objects to each way in which one can be wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from tests.faults.checker import check
from tests.faults.fleet import TRACEBACK
from tests.faults.history import (
    ChangeRow,
    CommitRow,
    Connection,
    Document,
    Effect,
    EventRow,
    History,
    ItemRow,
    Record,
    Subscriber,
    Transaction,
)

Tamper = Callable[[History], object]


def item(id: str, stamp: str) -> Document:
    return {"id": id, "stamp": stamp}


def frame(time: float, group: str, id: str | None, type: str, data: object) -> Document:
    event = (
        {"type": "event", "event": {"type": "note", "data": data}} if type == "event" else {"type": type, "data": data}
    )
    return {"timestamp": time, "streamName": "ledger", "groupId": group, "id": id, "event": event}


def right() -> History:
    """Six commits on two groups; a subscriber of both that reconnects, and leaves one of them for a while."""
    changes = [
        ChangeRow(1, 101, "ledger", "g", "a", "create", 1, item("a", "s1")),
        ChangeRow(2, 102, "ledger", "g", "a", "update", 2, item("a", "s2")),
        ChangeRow(3, 102, "ledger", "g", "b", "create", 1, item("b", "s3")),
        ChangeRow(5, 104, "ledger", "g", "a", "delete", 2, item("a", "s2")),
        ChangeRow(6, 105, "ledger", "h", "c", "create", 1, item("c", "s4")),
        ChangeRow(7, 105, "ledger", "g", "b", "update", 2, item("b", "s5")),
        ChangeRow(8, 106, "ledger", "g", "b", "update", 3, item("b", "s6")),
    ]
    events = [EventRow(4, 103, "ledger", "g", None, {"stamp": "e1"})]
    one: list[tuple[Literal["join", "frame"], Document]] = [
        ("join", {"streamName": "ledger", "groupId": "g", "id": None}),
        ("frame", frame(1000.001, "g", None, "sync", [item("a", "s1")])),
        ("frame", frame(2000, "g", "a", "update", item("a", "s2"))),
        ("frame", frame(2000, "g", "b", "create", item("b", "s3"))),
        ("frame", frame(3000, "g", None, "event", {"stamp": "e1"})),
    ]
    two: list[tuple[Literal["join", "frame"], Document]] = [
        ("join", {"streamName": "ledger", "groupId": "g", "id": None}),
        ("join", {"streamName": "ledger", "groupId": "h", "id": None}),
        ("frame", frame(4000.001, "h", None, "sync", [])),
        ("frame", frame(4000.002, "g", None, "sync", [item("b", "s3")])),
        ("frame", frame(5000, "h", "c", "create", item("c", "s4"))),
        ("frame", frame(5000, "g", "b", "update", item("b", "s5"))),
        ("frame", frame(6000, "g", "b", "update", item("b", "s6"))),
    ]
    effects = [
        (101, [Effect("set", "ledger", "g", "a", "s1")]),
        (102, [Effect("set", "ledger", "g", "a", "s2"), Effect("set", "ledger", "g", "b", "s3")]),
        (103, [Effect("event", "ledger", "g", None, "e1")]),
        (104, [Effect("delete", "ledger", "g", "a", "s2")]),
        (105, [Effect("set", "ledger", "h", "c", "s4"), Effect("set", "ledger", "g", "b", "s5")]),
        (106, [Effect("set", "ledger", "g", "b", "s6")]),
    ]
    return History(
        seed=1,
        seconds=1,
        commits=[CommitRow(number, 100 + number, number * 1_000_000) for number in range(1, 7)],
        changes=changes,
        events=events,
        items=[ItemRow("ledger", "g", "b", 3, item("b", "s6")), ItemRow("ledger", "h", "c", 1, item("c", "s4"))],
        transactions=[
            *(Transaction("w", xid, "committed", xid * 10, done) for xid, done in effects),
            Transaction("w", 107, "rolled back", None, [Effect("set", "ledger", "g", "a", "s7")]),
        ],
        subscribers=[
            Subscriber(
                "m",
                "motia",
                [
                    Connection("server 1", _records(1011, one)),
                    Connection("server 2", _records(1045, two), is_complete=True),
                ],
            )
        ],
    )


def _records(at: int, records: list[tuple[Literal["join", "frame"], Document]]) -> list[Record]:
    return [Record(at, kind, body) for kind, body in records]


def records(history: History, connection: int) -> list[Record]:
    return history.subscribers[0].connections[connection].records


def delete(history: History, connection: int, *places: int) -> None:
    order(history, connection, *(n for n in range(len(records(history, connection))) if n not in places))


def order(history: History, connection: int, *places: int) -> None:
    rows = records(history, connection)
    rows[:] = [rows[place] for place in places]


def set_data(history: History, connection: int, place: int, data: object) -> None:
    records(history, connection)[place].body["event"]["data"] = data


def roll_back(history: History, transaction: int) -> None:
    history.transactions[transaction] = history.transactions[transaction]._replace(outcome="rolled back")


def swap_numbers(history: History, one: int, other: int) -> None:
    """Exchange the numbers of two commits."""
    a, b = history.commits[one - 1], history.commits[other - 1]
    history.commits[one - 1], history.commits[other - 1] = a._replace(xid=b.xid), b._replace(xid=a.xid)


A1, A2, B3 = item("a", "s1"), item("a", "s2"), item("b", "s3")
DELETED = Record(1011, "frame", frame(4000, "g", "a", "delete", item("a", "s2")))

WRONG_AT_THE_SUBSCRIBER: list[tuple[str, str, Tamper]] = [
    ("a commit is lost", "lost", lambda h: delete(h, 1, 4, 5)),
    ("an event is lost", "lost", lambda h: records(h, 0).__setitem__(4, DELETED)),
    ("the last commit is lost", "lost", lambda h: delete(h, 1, 6)),
    ("a commit comes twice", "repeated", lambda h: records(h, 1).append(records(h, 1)[6])),
    ("a frame comes twice", "repeated", lambda h: records(h, 0).insert(3, records(h, 0)[2])),
    ("two commits are swapped", "lost", lambda h: order(h, 1, 0, 1, 2, 3, 6, 4, 5)),
    ("a commit comes within another", "half", lambda h: order(h, 1, 0, 1, 2, 3, 4, 6, 5)),
    ("an item of a commit is missing", "half", lambda h: delete(h, 0, 2)),
    ("a group of a commit is missing", "half", lambda h: delete(h, 1, 4)),
    ("a commit's items are swapped", "order", lambda h: order(h, 0, 0, 1, 3, 2, 4)),
    ("an item is not what was written", "fold", lambda h: set_data(h, 0, 2, A2 | {"x": 1})),
    ("a change was rolled back", "invented", lambda h: set_data(h, 0, 2, item("a", "s7"))),
    ("an operation is not the net one", "invented", lambda h: records(h, 0)[3].body["event"].update(type="update")),
    ("a snapshot holds a commit that comes again", "repeated", lambda h: set_data(h, 0, 1, [A2, B3])),
    ("a snapshot misses a commit that does not come", "sync", lambda h: set_data(h, 1, 3, [A2, B3])),
    ("a snapshot never was", "sync", lambda h: set_data(h, 0, 1, [A1, B3])),
    ("a snapshot has an item twice", "repeated", lambda h: set_data(h, 0, 1, [A1, A1])),
    ("a snapshot lacks what was acknowledged before", "sync", lambda h: set_data(h, 0, 1, [])),
    ("a group was not joined", "invented", lambda h: delete(h, 1, 1)),
    ("a join is refused", "error", lambda h: records(h, 0)[4].body["event"]["event"].update(type="error")),
    ("a frame's time is not newer", "client", lambda h: records(h, 1)[6].body.update(timestamp=5000)),
]

WRONG_IN_THE_LOG: list[tuple[str, str, Tamper]] = [
    ("a number is missing", "numbers", lambda h: h.commits.pop(2)),
    ("a transaction has two numbers", "numbers", lambda h: h.commits.append(CommitRow(7, 106, 7_000_000))),
    ("a change has no number", "lost", lambda h: h.changes.append(h.changes[0]._replace(seq=9, xid=999))),
    ("an event has no number", "lost", lambda h: h.events.append(h.events[0]._replace(seq=9, xid=999))),
    ("two commits are too close in time", "numbers", lambda h: h.commits.__setitem__(1, CommitRow(2, 102, 1_000_009))),
    ("an item's changes are in the wrong order", "order", lambda h: swap_numbers(h, 5, 6)),
    ("a table has what the history has not", "fold", lambda h: h.items.append(ItemRow("ledger", "g", "z", 1, {}))),
    ("a table lacks what the history has", "fold", lambda h: h.items.pop()),
    ("a table has other data", "fold", lambda h: h.items.__setitem__(0, h.items[0]._replace(data=item("b", "s9")))),
    ("a committed change is not in the log", "capture", lambda h: h.changes.pop()),
    ("half of a committed transaction is not in the log", "capture", lambda h: h.changes.pop(2)),
    ("a rolled back change is in the log", "invented", lambda h: roll_back(h, 5)),
    ("nobody made a change", "invented", lambda h: h.transactions.pop(5)),
    ("the run itself had trouble", "trouble", lambda h: h.trouble.append("a server crashed")),
]


def test_a_right_history_is_taken() -> None:
    """No problem where there is none, also when the history was saved and loaded."""
    assert check(right(), joins_are_fresh=True) == []


def test_a_saved_history_is_the_same(tmp_path: Path) -> None:
    """What is loaded equals what was saved."""
    right().save(tmp_path / "history.json")
    assert History.load(tmp_path / "history.json") == right()


@pytest.mark.parametrize(
    ("kind", "tamper"),
    [pytest.param(kind, tamper, id=name) for name, kind, tamper in WRONG_AT_THE_SUBSCRIBER + WRONG_IN_THE_LOG],
)
def test_a_wrong_history_is_objected_to(kind: str, tamper: Tamper) -> None:
    """Each tampering is found, as what it is."""
    history = copy.deepcopy(right())
    tamper(history)
    assert kind in {problem.kind for problem in check(history, joins_are_fresh=True)}


def test_a_connection_that_broke_may_end_anywhere() -> None:
    """In the middle of a commit, or long before the last one."""
    for length in range(1, 6):
        history = right()
        del records(history, 0)[length:]
        assert check(history) == []


def test_after_a_leave_frames_may_come_but_not_some_of_them() -> None:
    """What was on its way when the leave was sent may come, up to some commit, and from there on nothing."""
    leave = Record(1045, "leave", {"streamName": "ledger", "groupId": "g", "id": None})
    ending = [(), (5,), (5, 6)]
    for kept in ending:
        history = right()
        rows = records(history, 1)
        rows[5:] = [row for index, row in enumerate(rows) if index in kept]
        rows.insert(4, leave)
        assert check(history) == []
    history = right()
    records(history, 1).pop(5)
    records(history, 1).insert(4, leave)
    assert {problem.kind for problem in check(history)} == {"extra"}


def test_events_that_a_crash_may_have_lost_come_at_most_once() -> None:
    """Without an event's row nobody knows its place, but who sent it is known."""
    history = right()
    history.may_lose_events = True
    history.events.clear()
    assert check(history) == []
    records(history, 0).append(records(history, 0)[4])
    assert {problem.kind for problem in check(history)} == {"repeated"}


def test_tracebacks_are_found_with_their_error() -> None:
    """The line that names the error ends a traceback."""
    log = (
        "WARNING: x\nTraceback (most recent call last):\n  File 'a', line 1\n    f()\n    ^^^\n\nKeyError: 'a'\nINFO\n"
    )
    assert [found[1] for found in TRACEBACK.finditer(log)] == ["KeyError: 'a'"]


@pytest.mark.parametrize("said", ["OSError: gone", "SerializationError: lost\nDETAIL:  to another\nHINT:  Again."])
def test_of_a_chain_of_errors_the_last_one_counts(said: str) -> None:
    """What was made of an error matters, not what it came from, however many lines that said."""
    first = f"Traceback (most recent call last):\n  File 'a', line 1\n{said}\n"
    last = "Traceback (most recent call last):\n  File 'b', line 2\nCommitUnknownError: look\n"
    log = f"{first}\nThe above exception was the direct cause of the following exception:\n\n{last}more\n"
    assert [found[1] for found in TRACEBACK.finditer(log)] == ["CommitUnknownError: look"]
    assert [found[1] for found in TRACEBACK.finditer(first + log)] == [
        said.splitlines()[0],
        "CommitUnknownError: look",
    ]
