"""Rows that nobody can write any more, but that are there: they hinder nobody else, whatever is in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.harness import eventually
from tests.integration.sequencer_fixtures import connected
from tests.integration.test_rejoin import TOPIC, Feed, check, write
from tests.integration.test_unreadable_rows import BAD, live, numbered, refusals, until_live
from tidelog.feed.fast_path import ROWS_MAX
from tidelog.store.bulk import PAGE_BYTES_MAX
from tidelog.store.live import LiveLog
from tidelog.store.log import FEED_SETTINGS, FEW_ROWS, NUMBER_FEW, Numbering
from tidelog.store.reading import PageRequest, read_page

MB = 1_000_000
CHANGE = "insert into streams.change (stream, group_id, id, op, version, data) select 'chatMessage', 'bad', "
EVENT = "insert into streams.event (stream, group_id, id, type, data) select 'chatMessage', 'bad', "
# 131 kB as text each, in 12 bytes; so many of them are more than a text may have, and some kB as they are stored.
NUMBERS = "jsonb_build_object('n', (select jsonb_agg(1e131071) from generate_series(1, {})))"
MUCH = {
    "types of events": EVENT + f"null, repeat('t', {10 * MB}), '{{}}' from generate_series(1, 14)",
    "ids of events": EVENT + f"repeat('i', {10 * MB}), 't', '{{}}' from generate_series(1, 14)",
    "ids of items": CHANGE + f"repeat('i', {10 * MB}), 'create', 1, '{{}}' from generate_series(1, 14)",
    "numbers": CHANGE + f"i::text, 'create', 1, {NUMBERS.format(8300)} from generate_series(1, {ROWS_MAX}) i",
    "control characters": CHANGE + f"'a', 'create', 1, jsonb_build_object('t', repeat(chr(1), {MB})) "
    f"from generate_series(1, {ROWS_MAX})",
    "a number alone": EVENT + "null, 't', '1e131071' from generate_series(1, 14)",
}


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A superuser's, to whom no check applies: as it was for all others."""
    async with connected(database_url, **FEED_SETTINGS, session_replication_role="replica") as sql:
        yield sql


@pytest.mark.parametrize("statement", MUCH.values(), ids=MUCH)
async def test_commits_are_numbered_whatever_is_in_them(sql: asyncpg.Connection[Any], statement: str) -> None:
    """At the first try, and nothing of what is much is made into the answer; of what comes next all is told."""
    numbering = await Numbering.load(sql)
    await sql.execute(statement)
    row = await numbering._number(sql, NUMBER_FEW, FEW_ROWS, ROWS_MAX)  # `advance` would try again without telling
    assert (row["numbered"], row["rows"]) == (1, None)
    numbering = await Numbering.load(sql)
    await write(sql, "after")
    assert await numbering.advance(sql, tell_rows_max=ROWS_MAX) == 1
    assert [row[7] for row in numbering.rows] == ["after"]


@pytest.mark.parametrize("what", ["types of events", "ids of events", "ids of items"])
async def test_what_is_counted_is_all_of_a_row(sql: asyncpg.Connection[Any], what: str) -> None:
    """A page is as large as was asked for, and one row more at most: of the live log, and of those who come back."""
    numbering = await Numbering.load(sql)
    await sql.execute(MUCH[what])
    await write(sql, "after")
    assert await numbering.advance(sql) == 2
    page = await read_page(sql, PageRequest(1, -1, 2), bytes_max=PAGE_BYTES_MAX, timeout_seconds=30)
    assert (len(page.rows), page.more) == (1, True)
    log = LiveLog(sql, 30)
    first, *_ = await log.page(1, 2)
    assert (first["number"], first["op"], first["id"], first["data"]) == (1, None, None, None)
    head = await log.head(1, 2)
    assert head is not None
    commit = await log.bulk.read(head, {BAD})
    assert commit is not None and commit.truncated and BAD in commit.groups


async def test_a_group_that_is_told_too_much_begins_again_and_the_others_go_on(
    database_url: str, sql: asyncpg.Connection[Any]
) -> None:
    """By a reset with its reason."""
    async with Feed.on(database_url) as feed, numbered(feed, database_url):
        person, unlucky = await live(feed), await live(feed, BAD)
        await sql.execute(MUCH["types of events"])
        await until_live(unlucky, 2)
        for topic, one in ((TOPIC, person), (BAD, unlucky)):
            await write(sql, "after", topic.group_id)
            await one.until_told("after")
        assert (person.reasons(), unlucky.reasons()) == ([], ["too_large"])


@pytest.mark.slow  # Postgres makes a gigabyte of text, several times
async def test_an_item_that_is_more_than_a_text_may_have_ends_its_group_alone(
    database_url: str, sql: asyncpg.Connection[Any]
) -> None:
    """With a reason; others have all that comes, beside it and after it, and can join."""
    async with Feed.on(database_url) as feed, numbered(feed, database_url):
        person, unlucky = await live(feed), await live(feed, BAD)
        async with sql.transaction():
            await write(sql, "beside")
            await sql.execute("alter table streams.chat_message disable trigger user")
            item = "insert into streams.chat_message (group_id, id, data) select 'bad', 'a', "
            for statement in (item, CHANGE + "'a', 'create', 1, "):
                await sql.execute(statement + NUMBERS.format(8300))
            await sql.execute("alter table streams.chat_message enable trigger user")
            for trigger in ("tidelog_record", '"~tidelog_complete"'):
                await sql.execute(f"alter table streams.chat_message enable always trigger {trigger}")
        await write(sql, "after")
        await person.until_told("after")
        await check(sql, person)
        assert person.reasons() == refusals(person) == []
        await eventually(lambda: refusals(unlucky))
        assert (unlucky.reasons(), refusals(unlucky)) == (["unreadable"], ["item_unreadable"])
