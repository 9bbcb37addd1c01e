"""What the dialects write, whatever the names are."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidelog.errors import MessageInvalidError
from tidelog.feed.subscription import CommitHead, Share, Subscriber, Subscription, net_changes_of
from tidelog.model.change import STEP_ROWS, Change, Event, GroupCommit, Topic, net_changes
from tidelog.web.dialects import motia, tidelog
from tidelog.web.dialects.motia import MotiaDialect
from tidelog.web.dialects.tidelog import TidelogDialect

NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1)


def written(dialect: MotiaDialect | TidelogDialect, head: CommitHead, name: str) -> list[Any]:
    """A change and an event, in which everything that has a name has this one."""
    topic = Topic(name, name)
    part = GroupCommit([Change(1, "update", name, 7, '{"a":1}')], [Event(2, name, name, "null")])
    subscription = Subscription(name, cast("Subscriber", None), topic)
    messages = dialect.commit(head, [Share([subscription], dialect.pieces(head, topic, part, part.changes))])
    return [json.loads(payload) for payload in messages.payloads]


@given(name=NAMES)
def test_motia_messages_hold_any_name(name: str) -> None:
    change, event = written(MotiaDialect(), CommitHead(3, 1_764_000_000_000.5), name)
    address = {"streamName": name, "groupId": name, "id": name}
    assert change == {
        "timestamp": 1_764_000_000_000.5, **address, "event": {"type": "update", "data": {"a": 1}},
    }  # fmt: skip
    assert event.pop("timestamp") > change["timestamp"]
    assert event == {**address, "event": {"type": "event", "event": {"type": name, "data": None}}}


@pytest.mark.parametrize(
    ("item_id", "texts", "data"),
    [
        (None, [], []),
        (None, [b'{"a":1},{"a":2}', b'{"a":3}'], [{"a": 1}, {"a": 2}, {"a": 3}]),
        ("i", [], None),
        ("i", [b'{"a":1}'], {"a": 1}),
    ],
)
def test_a_motia_sync_is_made_of_texts_of_several_items(item_id: str | None, texts: list[bytes], data: object) -> None:
    (payload,) = MotiaDialect().sync(Topic("s", "g"), item_id, texts, 1.0).payloads
    sync = json.loads(payload)
    assert (sync["event"], sync.get("id")) == ({"type": "sync", "data": data}, item_id)


def test_a_number_that_comes_again_has_a_time_of_its_own() -> None:
    """In a history that lacks the first one: clients drop an item's message that is not newer."""
    dialect = MotiaDialect()
    first, _ = written(dialect, CommitHead(3, 2000.0), "a")
    dialect.sync(Topic("a", "a"), None, [], 2000.0)
    for at_ms in (1000.0, 3000.0):
        again, _ = written(dialect, CommitHead(3, at_ms), "a")
        assert again["timestamp"] > first["timestamp"]
        first = again


@given(name=NAMES, at_us=st.integers(0, 4_000_000_000_000_000))
def test_tidelog_messages_hold_any_name_and_time(name: str, at_us: int) -> None:
    """A double of milliseconds has room for each microsecond."""
    commit, event = written(TidelogDialect(), CommitHead(3, at_us / 1000, 2**63), name)
    assert datetime.fromisoformat(commit.pop("at")) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)
    place = {"subscriptions": [name], "position": 3}
    change = {"op": "update", "stream": name, "group": name, "id": name, "version": 7, "data": {"a": 1}}
    assert commit == {"type": "commit", **place, "transaction": "9223372036854775808", "changes": [change]}
    told = {"type": name, "data": None}
    assert event == {"type": "event", **place, "stream": name, "group": name, "id": name, "event": told}


@pytest.mark.parametrize(
    "value", ["[" * 400 + "]" * 400, "[" * 900 + "]" * 900, "1" * 5000, "1e400", "NaN", "[[1e400]]"]
)
def test_a_message_with_an_odd_value_is_refused(value: str) -> None:
    """Deep, huge or no number at all: an error that says so, in whatever place; the connection goes on."""
    join = '{"type": "join", "data": {"streamName": "s", "groupId": %s, "subscriptionId": "x"}}'
    subscribe = '{"type": "subscribe", "id": "x", "stream": "s", "group": "g", "since": %s, "epoch": "e"}'
    unsubscribe = '{"type": "unsubscribe", "id": %s}'
    deeper = {motia.parse: [join], tidelog.parse: [subscribe, unsubscribe]}
    for parse, messages in deeper.items():
        for message in messages:
            with pytest.raises(MessageInvalidError):
                parse(message % value)


@st.composite
def large_parts(draw: st.DrawFn) -> GroupCommit:
    """What a commit did in a group, in more steps than one; an item may come more than once."""
    rows = draw(st.integers(0, 3 * STEP_ROWS))
    ids = draw(st.integers(1, 3 * STEP_ROWS))
    ops: list[Any] = ["create", "update", "delete"]
    changes = [Change(2 * n, ops[n % 3 if n % ids else 0], f"i{n % ids}", n, f'{{"n":{n}}}') for n in range(rows)]
    count = draw(st.integers(0, 2 * STEP_ROWS))
    events = [Event(2 * n + 1, f"i{n}" if n % 2 else None, "t", str(n)) for n in range(count)]
    return GroupCommit(changes, events)


@pytest.mark.parametrize("dialect", [MotiaDialect, TidelogDialect])
@given(part=large_parts(), names=st.lists(NAMES, min_size=1, max_size=3))
def test_what_is_prepared_is_what_is_made_at_once(dialect: Any, part: GroupCommit, names: list[str]) -> None:
    """Byte for byte, for those who want the group, and for those who want it and an item."""
    topic, head = Topic("s", "g"), CommitHead(7, 1_764_000_000_000.5)
    prepared = GroupCommit(part.changes, part.events)
    people = [[Subscription(name, cast("Subscriber", None), topic) for name in names]]
    people.append([*people[0], Subscription("of an item", cast("Subscriber", None), topic, "i1")])
    written = []
    for one, does_prepare in ((part, False), (prepared, True)):
        speaker = dialect()
        if does_prepare:
            one.net = net_changes(one.changes)
            steps = speaker.prepare(head, topic, one, one.net)
            with pytest.raises(StopIteration) as end:
                while True:
                    next(steps)
            one.prepared = {speaker: end.value.value}
        pieces = speaker.pieces(head, topic, one, net_changes_of(one))
        if not does_prepare:
            pieces = list(pieces)  # nothing of it is shared
        written.append([list(speaker.commit(head, [Share(told, pieces)]).payloads) for told in people])
    assert written[0] == written[1]
    for messages in written[1]:
        for payload in messages:
            json.loads(payload)


def test_what_differs_in_a_name_only_is_kept_once() -> None:
    """The bytes behind the names are the same object in every connection's message."""
    topic, head, dialect = Topic("s", "g"), CommitHead(7, 1.0), TidelogDialect()
    changes = [Change(n, "update", f"i{n}", 2, "{}") for n in range(1000)]
    pieces = dialect.pieces(head, topic, GroupCommit(changes, []), changes)
    ends = []
    for name in ("one", "another"):
        (parts,) = dialect.commit(head, [Share([Subscription(name, cast("Subscriber", None), topic)], pieces)]).in_parts
        assert len(parts[0]) < 100
        ends.append(parts[1])
    assert ends[0] is ends[1]
