"""What the sequencer tells of the commits that it numbered is what a reader finds in the log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from tests.integration.sequencer_fixtures import connected
from tidelog.feed.fast_path import ROWS_MAX
from tidelog.model.change import Commit
from tidelog.store.log import FEED_SETTINGS, Numbering
from tidelog.store.reading import Page, PageRequest, read_after, read_page, whole_commits

HOSTILE = 'q" b\\ s/ \b\f\n\r\t \x01\x1f\x7f \x80 \u2028 \u2029 é 中 \U0001f600 {} %s $1 \\u0041 \'"'
DATA = '{"big": 123456789012345678901234567890, "one": 1.0, "e": 1e400, "text": "quote \\" \\u001f \\ud83d\\ude00"}'
WRITE = "insert into streams.chat_message (group_id, id, data) values ($1, $2, $3::jsonb)"


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    async with connected(database_url, **FEED_SETTINGS) as connection:
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=str)
        yield connection


def told(numbering: Numbering) -> Sequence[Commit]:
    return whole_commits(numbering.rows, lambda _topic: True)


async def logged(connection: asyncpg.Connection[Any], last: int, after: int = 0) -> Sequence[Commit]:
    async def fetch(request: PageRequest) -> Page:
        return await read_page(connection, request, timeout_seconds=10)

    return [commit async for commits in read_after(fetch, after, last, lambda _topic: True) for commit in commits]


async def test_commits_of_every_kind(connection: asyncpg.Connection[Any]) -> None:
    """Changes of several items and groups, events, hostile texts, and times that have fractions: none differs."""
    numbering = await Numbering.load(connection)
    async with connection.transaction():
        await connection.execute(WRITE, HOSTILE, "b", DATA)
        await connection.execute(WRITE, "g", HOSTILE, DATA)
        await connection.execute("delete from streams.chat_message where id = 'b'")
        await connection.execute(
            "select streams.send('chatMessage', 'g', $1, 'typing', $2::jsonb)", HOSTILE, '{"who": "ada"}'
        )
    await connection.execute("select streams.send('chatMessage', 'g', null, $1, 'null')", HOSTILE)
    await connection.execute("update streams.chat_message set data = '{}'")
    assert await numbering.advance(connection, tell_rows_max=ROWS_MAX) == 3
    assert told(numbering) == await logged(connection, 3)
    assert [len(part.changes) for commit in told(numbering) for part in commit.groups.values()] == [2, 1, 0, 1]


async def test_one_that_was_in_progress(connection: asyncpg.Connection[Any], database_url: str) -> None:
    """A transaction that began before others, and ended after them, is told of when it ended."""
    numbering = await Numbering.load(connection)
    async with connected(database_url) as long:
        await long.execute("begin; select pg_current_xact_id()")
        await long.execute("select streams.send('chatMessage', 'g', null, 'long', '{}')")
        await connection.execute(WRITE, "g", "short", "{}")
        assert await numbering.advance(connection, tell_rows_max=ROWS_MAX) == 1
        assert told(numbering) == await logged(connection, 1)
        await long.execute("commit")
    assert await numbering.advance(connection, tell_rows_max=ROWS_MAX) == 1
    assert told(numbering) == await logged(connection, 2, after=1)


@pytest.mark.parametrize(
    "items, size, expected", [(ROWS_MAX, 10, ROWS_MAX), (ROWS_MAX + 1, 10, 0), (3, 5000, 3), (4, 5000, 0)]
)
async def test_what_is_much_is_left_to_the_log(
    connection: asyncpg.Connection[Any], items: int, size: int, expected: int
) -> None:
    """Numbered all the same, and nothing is told of a part of it."""
    numbering = await Numbering.load(connection)
    await connection.execute(
        "insert into streams.chat_message (group_id, id, data) "
        "select 'g', i::text, jsonb_build_object('text', (select string_agg(md5(j::text), '') from "
        "generate_series(1, $2::int / 32) j)) from generate_series(1, $1::int) i",
        items,
        size,
    )
    assert await numbering.advance(connection, tell_rows_max=ROWS_MAX) == 1
    assert len(numbering.rows) == expected
    assert await numbering.advance(connection, tell_rows_max=ROWS_MAX) == 0
    assert numbering.rows == ()


async def test_what_is_much_as_a_text_is_left_to_the_log(connection: asyncpg.Connection[Any]) -> None:
    """A compressed megabyte is stored in some kilobytes, and would hold up whoever reads it as JSON."""
    numbering = await Numbering.load(connection)
    await connection.execute(
        "insert into streams.chat_message (group_id, id, data) "
        "values ('g', 'large', jsonb_build_object('text', repeat('x', 1000000)))"
    )
    assert await connection.fetchval("select pg_column_size(data) from streams.change") < 16384
    assert await numbering.advance(connection, tell_rows_max=ROWS_MAX) == 1
    assert numbering.rows == ()


async def test_a_time_of_whole_milliseconds(connection: asyncpg.Connection[Any]) -> None:
    """It is the same number, of the same type, whichever way it comes."""
    await connection.execute(WRITE, "g", "a", "{}")
    numbering = await Numbering.load(connection)
    assert await numbering.advance(connection, tell_rows_max=ROWS_MAX) == 1
    (row,) = numbering.rows
    (commit,) = whole_commits([[*row[:2], 1764000000000, *row[3:]]], lambda _topic: True)
    assert repr(commit.at_ms) == "1764000000000.0"


async def test_nothing_is_told_unasked(connection: asyncpg.Connection[Any]) -> None:
    """As long as nobody is subscribed."""
    numbering = await Numbering.load(connection)
    await connection.execute(WRITE, "g", "a", "{}")
    assert await numbering.advance(connection) == 1
    assert numbering.rows == ()
