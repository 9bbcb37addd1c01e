"""From transactions to numbered commits."""

from __future__ import annotations

import itertools
from contextlib import suppress
from datetime import timedelta

import asyncpg
import pytest

from tests.harness import Sql
from tests.integration.capture.log import INSERT, UPDATE, number
from tidelog.store.log import Numbering

STEP_BETWEEN_COMMITS = timedelta(microseconds=10)


async def test_a_change_has_its_top_level_transactions_xid(sql: Sql, group: str) -> None:
    """Also one that was made in a savepoint, or in a block that catches errors, which have xids of their own."""
    async with sql.transaction():
        xid = await sql.fetchval("select pg_current_xact_id()")
        async with sql.transaction():
            await sql.execute(INSERT, group, "a", {})
            async with sql.transaction():
                await sql.execute(INSERT, group, "b", {})
        with suppress(ZeroDivisionError):
            async with sql.transaction():
                await sql.execute(INSERT, group, "undone", {})
                raise ZeroDivisionError
        await sql.execute(
            f"do $$ begin insert into streams.chat_message (group_id, id, data) values ('{group}', 'c', '{{}}'); "
            "exception when others then null; end $$"
        )
        await sql.execute(INSERT, group, "d", {})
    rows = await sql.fetch("select id, xid from streams.change where group_id = $1 order by seq", group)
    assert [tuple(row) for row in rows] == [(id, xid) for id in "abcd"]


async def test_commits_are_numbered_by_their_last_write(sql: Sql, other: Sql, group: str) -> None:
    """Not by their xids, which an early savepoint or a read draws long before, and not by their first write."""
    async with sql.transaction():
        await sql.fetchval("select pg_current_xact_id()")
        async with sql.transaction():
            await sql.execute(INSERT, group, "early", {})
        async with other.transaction():
            await other.execute(INSERT, group, "item", {"n": 1})
        await sql.execute(UPDATE, group, "item", {"n": 2})
    await number(sql)
    history = await sql.fetch(
        "select id, data ->> 'n' as n from streams.chat_message_history where group_id = $1 order by position, seq",
        group,
    )
    assert [tuple(row) for row in history] == [("item", "1"), ("early", None), ("item", "2")]


async def test_a_commit_that_was_open_is_numbered_when_it_is_there(sql: Sql, other: Sql, group: str) -> None:
    """Numbering goes on past a transaction in progress, finds it later, and gives each commit one number."""
    await number(sql)
    async with other.transaction():
        late = await other.fetchval("select pg_current_xact_id()")
        await other.execute(INSERT, group, "late", {})
        await sql.execute(INSERT, group, "a", {})
        assert len(await number(sql)) == 1
        await sql.execute(INSERT, group, "b", {})
        assert late not in await number(sql)
        assert await number(sql) == []
    assert await number(sql) == [late]
    assert await number(sql) == []


async def test_history_shows_only_what_has_a_number(sql: Sql, group: str) -> None:
    """A change that the feed has not reached yet is not history yet; then it has its place and its time."""
    await sql.execute(INSERT, group, "a", {})
    history = "select position, at from streams.chat_message_history where group_id = $1"
    assert await sql.fetch(history, group) == []
    await number(sql)
    assert len(await sql.fetch(history, group)) == 1


async def test_commits_of_a_batch_are_apart_in_time(sql: Sql, group: str) -> None:
    """At least 10 microseconds from one to the next, also from the last of the batch before."""
    for batch in range(2):
        for n in range(3):
            await sql.execute(INSERT, group, f"{batch}.{n}", {"n": n})
        assert len(await number(sql)) == 3
    times = [row["at"] for row in await sql.fetch("select at from streams.commit order by number desc limit 6")]
    assert all(later - earlier >= STEP_BETWEEN_COMMITS for later, earlier in itertools.pairwise(times))


async def test_a_second_sequencer_fails_on_the_commits_table(sql: Sql, other: Sql, group: str) -> None:
    """One that numbers from a state that is no longer the last gives nothing a second number."""
    await number(sql)
    stale = await Numbering.load(other)
    await sql.execute(INSERT, group, "a", {})
    await number(sql)
    await sql.execute(INSERT, group, "b", {})
    with pytest.raises(asyncpg.UniqueViolationError):
        await stale.advance(other)
    assert len(await number(sql)) == 1


async def test_an_event_alone_is_a_commit(sql: Sql, group: str) -> None:
    """streams.send without a change takes a number, and is not in the history."""
    async with sql.transaction():
        xid = await sql.fetchval("select pg_current_xact_id()")
        await sql.execute("select streams.send('chatMessage', $1, null, 'typing', '{}')", group)
    assert xid in await number(sql)
    assert await sql.fetchval("select count(*) from streams.chat_message_history where xid = $1", xid) == 0
