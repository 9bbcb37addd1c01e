"""Who may write, and what a writer can't do."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from tests.integration.capture.log import INSERT, UPDATE, log_of


async def test_a_writer_needs_rights_on_the_streams_table_alone(sql: Any, group: str, role: str) -> None:
    """The log is written for it; it can't read or write the log itself."""
    await sql.execute(f"grant usage on schema streams to {role}")
    await sql.execute(f"grant insert on streams.chat_message to {role}")
    await sql.execute(f"set role {role}")
    await sql.execute(INSERT, group, "a", {"n": 1})
    for statement in (
        "insert into streams.change (stream, group_id, id, op, version, data) "
        "values ('chatMessage', 'g', 'a', 'create', 1, '{}')",
        "delete from streams.change",
        "insert into streams.commit (number, xid, at) values (0, '1', now())",
        "select * from streams.change",
        "select nextval('streams.write_seq')",
        "select streams.declare('x', 'x', '{}')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await sql.execute(statement)
    await sql.execute("reset role")
    assert await log_of(sql, group) == [("create", "a", 1, {"n": 1})]


async def test_the_log_cant_be_written_by_a_trigger_of_ones_own(sql: Any, group: str, role: str) -> None:
    """Who may only write one table can't put what it likes into any stream's feed by a table of its own."""
    await sql.execute(f"grant usage on schema streams to {role}")
    await sql.execute(f"set role {role}")
    await sql.execute("create temporary table forged (group_id text, id text, version bigint, data jsonb)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await sql.execute(
            "create trigger forge after insert on forged for each row "
            "execute function streams.record_change('chatMessage')"
        )


async def test_a_search_path_changes_nothing(sql: Any, group: str, role: str) -> None:
    """Functions, operators and tables of the writer's own, first in its path, are not what the triggers call."""
    await sql.execute(f"grant usage on schema streams to {role}")
    await sql.execute(f"grant insert, select, update, delete on streams.chat_message to {role}")
    await sql.execute(f"create schema evil authorization {role}")
    await sql.execute(f"set role {role}")
    for statement in (
        "create table evil.change (like streams.chat_message)",
        "create temporary table change (n int)",
        "create function evil.pg_try_advisory_xact_lock_shared(int, int) returns bool language plpgsql "
        "as $$ begin raise 'called'; end $$",
        "create function evil.pg_notify(text, text) returns void language plpgsql as $$ begin raise 'called'; end $$",
        "create function evil.clock_timestamp() returns timestamptz language plpgsql "
        "as $$ begin raise 'called'; end $$",
        "create function evil.to_jsonb(text) returns jsonb language plpgsql as $$ begin raise 'called'; end $$",
        "create function evil.same(text, text) returns bool language sql as $$ select false $$",
        "create operator evil.= (leftarg = text, rightarg = text, function = evil.same)",
        "create function evil.same(jsonb, jsonb) returns bool language sql as $$ select true $$",
        "create operator evil.= (leftarg = jsonb, rightarg = jsonb, function = evil.same)",
        "set search_path = evil, pg_temp, pg_catalog",
    ):
        await sql.execute(statement)
    await sql.execute(INSERT, group, "a", {"n": 1})
    update = UPDATE.replace(
        "group_id = $1 and id = $2", "group_id operator(pg_catalog.=) $1 and id operator(pg_catalog.=) $2"
    )
    await sql.execute(update, group, "a", {"n": 2})
    await sql.execute("reset search_path")
    await sql.execute("reset role")
    assert await log_of(sql, group) == [("create", "a", 1, {"n": 1}), ("update", "a", 2, {"n": 2})]
