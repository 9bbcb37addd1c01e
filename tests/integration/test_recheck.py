"""`streams.recheck`: what SQL says of rules that are to be asked again, and what it refuses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from tests.harness import FRAME_TIMEOUT_SECONDS, connect_sql
from tidelog.access.recheck import ALL, Hint


async def told(database_url: str, statement: str, *arguments: Any) -> Hint | None:
    """What a server that listens makes of it."""
    connection = await connect_sql(database_url)
    payloads: asyncio.Queue[str] = asyncio.Queue()
    await connection.add_listener("tidelog_recheck", lambda _, __, ___, payload: payloads.put_nowait(payload))
    try:
        await connection.execute(statement, *arguments)
        async with asyncio.timeout(FRAME_TIMEOUT_SECONDS):
            return Hint.of(await payloads.get())
    finally:
        await connection.close()


HOSTILE = 'a"}\\\u0001\u00e9\U0001f600, "stream": null'


@pytest.mark.parametrize(
    ("statement", "arguments", "hint"),
    [
        ("select streams.recheck()", (), ALL),
        ("select streams.recheck(subject => $1)", ("ada",), Hint(subject="ada")),
        ("select streams.recheck(group_id => $1)", (HOSTILE,), Hint(group=HOSTILE)),
        ("select streams.recheck($1, $2, $3)", (HOSTILE, "chatMessage", "g"), Hint(HOSTILE, "chatMessage", "g")),
        ("select streams.recheck($1, null, null)", (None,), ALL),
        ("select streams.recheck(stream => 'chatMessage', group_id => $1)", ("\u0001" * 1024,), None),
    ],
)
async def test_what_is_said_arrives_as_it_was_said(
    database_url: str, statement: str, arguments: tuple[str, ...], hint: Hint | None
) -> None:
    """Whatever characters are in it, up to the longest group there is."""
    expected = hint if hint is not None else Hint(stream="chatMessage", group="\u0001" * 1024)
    assert await told(database_url, statement, *arguments) == expected


@pytest.mark.parametrize("subject", ["x" * 8000, "\u00e9" * 4000, '"' * 4000])
async def test_what_no_notify_holds_is_about_all(database_url: str, subject: str) -> None:
    """Rather than fail the transaction that takes a right away, or be heard by nobody."""
    assert await told(database_url, "select streams.recheck(subject => $1)", subject) == ALL


async def test_a_stream_that_there_is_not_is_an_error(database_url: str) -> None:
    """A slip of the pen would let a right go on."""
    connection = await connect_sql(database_url)
    with pytest.raises(asyncpg.UndefinedObjectError, match="no stream is named 'chatmessage'"):
        await connection.execute("select streams.recheck(stream => 'chatmessage')")
    await connection.close()


async def test_whoever_may_use_the_schema_may_say_so_and_nothing_else(database_url: str) -> None:
    """It runs with its caller's rights, whatever functions and operators are on the caller's path."""
    connection = await connect_sql(database_url)
    role = f"asker_{asyncio.get_running_loop().time():.0f}_{id(connection)}"
    await connection.execute(
        f"""
        create role {role}; grant usage on schema streams to {role};
        create schema trap; grant usage on schema trap to {role};
        create function trap.octet_length(text) returns int language sql as 'select 1/0';
        create function trap.pg_notify(text, text) returns void language sql as 'select 1/0';
        """
    )
    try:
        await connection.execute(f"set role {role}; set search_path = trap, pg_catalog")
        await connection.execute("select streams.recheck(subject => 'ada', stream => 'chatMessage')")
        row = await connection.fetchrow("select prosecdef from pg_proc where oid = 'streams.recheck'::regproc")
        assert row is not None and not row[0]
    finally:
        await connection.execute(f"reset role; drop schema trap cascade; drop owned by {role}; drop role {role}")
        await connection.close()


def test_a_hint_is_json_or_nothing() -> None:
    """What else somebody notifies is not understood."""
    assert Hint.of("") == Hint.of("{}") == ALL
    assert Hint.of(json.dumps({"subject": "ada", "group": "g"})) == Hint(subject="ada", group="g")
    for payload in ("x", "[]", '{"subject": 5}', '{"deny": "x"}', "[" * 7999):
        assert Hint.of(payload) is None
