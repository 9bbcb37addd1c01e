"""What the database makes of commits is byte for byte what the dialect makes of them; and what it tells of items."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any

import asyncpg
import pytest

from tests.integration.sequencer_fixtures import connected
from tidelog.feed.fan_out import Channel, Touched, deliver
from tidelog.feed.messages import Messages
from tidelog.feed.subscription import CommitHead, Subscription
from tidelog.model.change import Commit, Topic, net_changes
from tidelog.store.log import FEED_SETTINGS, Numbering
from tidelog.store.reading import Page, PageRequest, read_after, read_page
from tidelog.store.ready import ManyWanted, OneWanted, ReadyRequest, Wanted, fetch_ready, read_ready
from tidelog.store.snapshot import open_snapshot
from tidelog.web.dialects.tidelog import TidelogDialect

HOSTILE = 'q" b\\ s/ \b\f\n\r\t \x01\x1f\x7f \x80 \u2028 \u2029 é 中 \U0001f600 {} %s $1 \\u0041 \'"'
GROUP = f"group {HOSTILE}"
IDS = ("plain", HOSTILE, f"\\{HOSTILE}\\", "0", "null")
DATA = (
    "{}",
    '{"empty": {}, "list": [], "no": null, "text": ""}',
    '{"big": 123456789012345678901234567890, "small": 1.000000000000000000000001, "one": 1.0, "e": 1e400}',
    '{"text": "quote \\" slash / \\\\ \\u001f \\u2028 \\ud83d\\ude00 \\u007f", "\\"": "\\n"}',
)
WRITE = """
insert into streams.chat_message (group_id, id, data) values ($1, $2, $3::jsonb)
on conflict (group_id, id) do update set data = excluded.data
"""


class Connection:
    """A subscriber, its own outlet, that keeps what it gets."""

    def __init__(self) -> None:
        self.dialect = TidelogDialect()
        self.outlet = self
        self.payloads: list[bytes] = []

    def deliver(self, messages: Messages) -> None:
        self.payloads += messages.payloads

    write = deliver

    @staticmethod
    def write_all(outlets: Iterable[Connection], messages: Messages) -> None:
        for outlet in outlets:
            outlet.write(messages)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Set up as the archive's are, behind commits of one hostile change each, in times with and without fractions."""
    async with connected(database_url, **FEED_SETTINGS) as connection:
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=str)
        for data in DATA:
            for id in IDS:
                await connection.execute(WRITE, GROUP, id, data)
        for id in IDS[:3]:
            await connection.execute("delete from streams.chat_message where id = $1", id)
        count = await (await Numbering.load(connection)).advance(connection)
        assert count == len(DATA) * len(IDS) + 3
        await connection.execute(
            "update streams.commit set at = date_trunc((array['second', 'milliseconds'])[number % 3], at)"
            " where number % 3 > 0"
        )
        yield connection


@pytest.mark.parametrize("item_id", [None, HOSTILE])
@pytest.mark.parametrize("timezone", ["UTC", "Asia/Kathmandu"])
async def test_commits_of_one_change(connection: asyncpg.Connection[Any], item_id: str | None, timezone: str) -> None:
    """To a group's subscriber and to an item's, whatever the session's time zone."""
    await connection.execute(f"set timezone = '{timezone}'")
    topic = Topic("chatMessage", GROUP)
    last = await connection.fetchval("select max(number) from streams.commit")
    subscriber: Any = Connection()
    subscription = Subscription(f"s {HOSTILE}", subscriber, topic, item_id)
    channel = Channel()
    channel.go_live(subscription, subscriber.dialect)

    async def fetch_page(request: PageRequest) -> Page:
        return await read_page(connection, request, timeout_seconds=30)

    def publish(commit: Commit) -> None:
        part = commit.groups[topic]
        deliver(
            CommitHead(commit.number, commit.at_ms, commit.xid),
            [Touched(topic, channel, part, net_changes(part.changes))],
        )

    async for commits in read_after(fetch_page, 0, last, lambda _: True):
        for commit in commits:
            publish(commit)

    wording = subscriber.dialect.ready([subscription])
    wanted: list[Wanted] = [OneWanted(topic, item_id, wording)]
    if item_id is None:
        others = {Topic("chatMessage", f"{GROUP} {n}"): wording for n in range(3)}
        wanted.append(ManyWanted({**others, topic: wording, Topic(HOSTILE, GROUP): None}))
    for one in wanted:
        made = await _make(connection, one, last)
        assert made == subscriber.payloads
        assert len(made) == (last if item_id is None else len(DATA) + 1)


async def test_what_no_words_are_given_for_is_not_made(connection: asyncpg.Connection[Any]) -> None:
    """Of many groups: the first commit of such a one is left to be told by the dialect."""
    subscriber: Any = Connection()
    other = Topic("chatMessage", "other")
    wording = subscriber.dialect.ready([Subscription("s", subscriber, other)])
    assert await _make(connection, ManyWanted({Topic("chatMessage", GROUP): None, other: wording}), 5) == []


async def _make(connection: asyncpg.Connection[Any], wanted: Wanted, last: int) -> list[bytes]:
    """The messages that the database makes."""

    async def fetch(request: ReadyRequest) -> Any:
        return await fetch_ready(connection, request, wanted)

    return [message async for page in read_ready(fetch, 0, last) for message in page.messages]


async def test_items(connection: asyncpg.Connection[Any]) -> None:
    """A snapshot's, whose data is not cast to a text, are the table's texts, oldest first."""
    await connection.execute(WRITE, GROUP, HOSTILE, DATA[2])
    rows = await connection.fetch(
        "select id, version, data::text from streams.chat_message where group_id = $1 order by created_at, id", GROUP
    )
    assert HOSTILE in [row["id"] for row in rows]
    async with (
        open_snapshot(connection, "chatMessage", "chat_message", GROUP, None) as snapshot,
        aclosing(snapshot.batches("id, version, data")) as batches,
    ):
        assert [tuple(row) async for batch in batches for row in batch] == [tuple(row) for row in rows]
    async with (
        open_snapshot(connection, "chatMessage", "chat_message", GROUP, HOSTILE) as snapshot,
        aclosing(snapshot.batches("id, data")) as batches,
    ):
        read = [tuple(row) async for batch in batches for row in batch]
    assert read == [(row["id"], row["data"]) for row in rows if row["id"] == HOSTILE]
