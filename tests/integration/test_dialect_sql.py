"""What the database makes of commits is byte for byte what the dialect makes of them; and what it tells of items."""

from __future__ import annotations

import json
import random
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
from tidelog.store.log import ARCHIVE_SETTINGS, Numbering
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

# Transactions, in one statement: subtransactions have an xid, too.
USE_UP = "select streams.use_up_xids($1)"
MAKE_USE_UP = """
create function streams.use_up_xids(count int) returns void language plpgsql as $$
begin
    for i in 1 .. count loop
        begin
            perform pg_current_xact_id();
        exception when others then raise;
        end;
    end loop;
end $$
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


@pytest.fixture(params=[0, 1000], ids=["near", "far"])
async def connection(database_url: str, request: pytest.FixtureRequest) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Set up as the archive's are, behind commits of one hostile change each, in times with and without fractions.

    Their transactions are near each other, or as if one of them had been open for long: they are read in two ways.
    """
    async with connected(database_url, **ARCHIVE_SETTINGS) as connection:
        await connection.execute(MAKE_USE_UP)
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=str)
        for data in DATA:
            await connection.execute(USE_UP, request.param)
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


async def test_a_page_tells_of_each_commit_whatever_is_in_it(
    connection: asyncpg.Connection[Any], database_url: str, seed: int
) -> None:
    """Of several rows, of events, of other groups, of one that was open for long, of more than a page: all its rows."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    async with connected(database_url) as slow:
        for number in range(60):
            if number % 6 == 0:
                open_for_long = slow.transaction()
                await open_for_long.start()
                await _write_some(slow, rng)
            async with connection.transaction():
                await _write_some(connection, rng, *IDS)
            if number % 6 == 5:  # its number is higher than those of later transactions
                await (await Numbering.load(connection)).advance(connection)
                await open_for_long.commit()
            if number % 20 == 10:
                await connection.execute(USE_UP, rng.choice((0, 300, 2000)))
    await (await Numbering.load(connection)).advance(connection)
    last = await connection.fetchval("select max(number) from streams.commit")
    topic = Topic("chatMessage", GROUP)
    for _ in range(60):
        first = rng.randint(1, last)
        until, rows_max = rng.randint(first, last + 5), rng.choice((1, 3, 20, 500))
        item_id = rng.choice((None, HOSTILE))
        subscription = Subscription("s", Connection(), topic, item_id)  # type: ignore[arg-type]
        wanted = OneWanted(topic, item_id, TidelogDialect().ready([subscription]))
        rows = [tuple(row) for row in await fetch_ready(connection, ReadyRequest(first, until, rows_max), wanted)]
        expected = [tuple(row) for row in await connection.fetch(ROWS, first, until, topic.group_id, item_id)]
        assert [number for number, _ in rows] == [number for number, *_ in expected][:rows_max]
        whole = {number for number, _ in rows[:-1]} - {rows[-1][0]} if rows else set()
        for number in whole:
            of_it = [message for other, message in rows if other == number]
            assert sum(message is None for message in of_it) == sum(
                kind == "event" for n, kind, _ in expected if n == number
            )
            ids = sorted(json.loads(message)["changes"][0]["id"] for message in of_it if message is not None)
            assert ids == sorted(id for n, kind, id in expected if n == number and kind == "change")


async def _write_some(connection: asyncpg.Connection[Any], rng: random.Random, *ids: str) -> None:
    """Rows of several kinds, in the transaction that is open, to new items and these."""
    for _ in range(rng.choice((1, 1, 1, 2, 40))):
        id = rng.choice((*ids, f"new {rng.random()}"))
        await connection.execute(WRITE, rng.choice((GROUP, GROUP, "other")), id, f'{{"n": {rng.random()}}}')
    for _ in range(rng.choice((0, 0, 0, 1, 3, 30))):
        await connection.execute("select streams.send('chatMessage', $1, $2, 't', '1')", GROUP, rng.choice(IDS))


ROWS = """
select n.number, w.kind, w.id
from streams.commit n
join (
    select xid, 'change' as kind, id, stream, group_id from streams.change
    union all select xid, 'event', id, stream, group_id from streams.event
) w on w.xid = n.xid
where n.number between $1 and $2 and w.stream = 'chatMessage' and w.group_id = $3 and ($4::text is null or w.id = $4)
order by n.number
"""
