"""What the dialects write, whatever the names are."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidelog.errors import MessageInvalidError
from tidelog.feed.subscription import CommitHead, Share, Subscriber, Subscription
from tidelog.model.change import Change, Event, GroupCommit, Topic
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
    commit, event = written(TidelogDialect(), CommitHead(3, at_us / 1000), name)
    assert datetime.fromisoformat(commit.pop("at")) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)
    place = {"subscriptions": [name], "position": 3}
    change = {"op": "update", "stream": name, "group": name, "id": name, "version": 7, "data": {"a": 1}}
    assert commit == {"type": "commit", **place, "changes": [change]}
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
