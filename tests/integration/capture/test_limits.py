"""What is too much for those who read the feed is refused where it is written; and a writer can't set what is ours."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from tests.harness import Sql
from tests.integration.capture.log import INSERT, ROW, UPDATE, log_of

INSERT_TEXT = "insert into streams.chat_message (group_id, id, data) values ($1, $2, {})"
SIZE_MAX_BYTES = 2_097_152  # without the setting
SIZE_MAX_BYTES_EVER = 67_108_864
MORE_AS_TEXT = {  # little as it is stored, and much as it is sent
    "control characters": "jsonb_build_object('text', repeat(chr(1), 400000))",
    "large numbers": "jsonb_build_object('n', (select jsonb_agg(1e4000) from generate_series(1, 600)))",
    "small numbers": "jsonb_build_object('n', (select jsonb_agg(1e-16000) from generate_series(1, 150)))",
    "one letter": "jsonb_build_object('text', repeat('x', 3000000))",
}
# All that hinders others: a number that Python's reader refuses, and nesting that most do.
UNREADABLE = {
    "tidelog_item_digits": [
        "1e4300",
        "-1e4300",
        "1e131071",
        "[[1e4300, 1]]",
        '{"pad": "%s", "n": 7e4300}' % ("x" * 1500),
    ],
    "tidelog_item_depth": ["[" * 201 + "]" * 201, '{"a":' * 201 + "1" + "}" * 201, "[" * 3000 + "]" * 3000],
}
READABLE = [
    "9e4299",
    "-9e4299",
    "[" * 200 + "1" + "]" * 200,
    f'"{"7" * 20000}"',
    '["{}", 1e4000, "{}"]'.format("7" * 2149, "7" * 6000),
    "1e-5000",
]


def refused(constraint: str) -> Any:
    return pytest.raises(asyncpg.CheckViolationError, check=lambda error: error.constraint_name == constraint)


@pytest.mark.parametrize("made_by", MORE_AS_TEXT.values(), ids=MORE_AS_TEXT)
async def test_an_item_that_is_too_large_as_text_is_refused(sql: Sql, group: str, made_by: str) -> None:
    """However little of it is stored; by INSERT and by UPDATE, and as an event's data."""
    await sql.execute(INSERT, group, "a", {})
    assert await sql.fetchval(f"select pg_column_size(data) < $1 from (select {made_by} as data offset 0) d", 10**6 * 4)
    for statement in (
        INSERT_TEXT.format(made_by) + " returning $2::text",
        f"update streams.chat_message set data = {made_by} where group_id = $1 and id = $2",
        f"select streams.send('chatMessage', $1, $2, 'typing', {made_by})",
        f"insert into streams.event (stream, group_id, id, type, data) values ('chatMessage', $1, $2, 't', {made_by})",
    ):
        with refused("tidelog_item_size"):
            await sql.execute(statement, group, "a" if "update" in statement else "b")
    assert [op for op, *_ in await log_of(sql, group)] == ["create"]


@pytest.mark.parametrize(("constraint", "value"), [(name, one) for name, many in UNREADABLE.items() for one in many])
async def test_what_json_readers_refuse_is_refused(sql: Sql, group: str, constraint: str, value: str) -> None:
    """In an item and in an event, where the database itself would take it."""
    for statement in (
        INSERT_TEXT.format("jsonb_build_object('deep', jsonb_build_array($3::text::jsonb))"),
        "select streams.send('chatMessage', $1, $2, 'typing', jsonb_build_array($3::text::jsonb))",
    ):
        with refused(constraint):
            await sql.execute(statement, group, "a", value)
    assert await log_of(sql, group) == []


@pytest.mark.parametrize("value", READABLE)
async def test_what_they_take_is_taken(sql: Sql, group: str, value: str) -> None:
    """Up to 4,300 digits and 200 levels below the item; digits of a string or of a fraction are not counted."""
    await sql.execute(INSERT_TEXT.format("jsonb_build_object('v', $3::text::jsonb)"), group, "a", value)
    await sql.execute("select streams.send('chatMessage', $1, $2, 'typing', $3::text::jsonb)", group, "a", value)
    assert len(await log_of(sql, group)) == 1


@pytest.mark.parametrize("before", [0, 2000, 2148, 2149, 2150, 4300, 9000])
async def test_a_long_number_is_found_wherever_it_stands(sql: Sql, group: str, before: int) -> None:
    """Before and behind it may be as much as one likes."""
    statement = INSERT_TEXT.format("jsonb_build_object('v', jsonb_build_array($3::text, 1e4300, $3::text))")
    with refused("tidelog_item_digits"):
        await sql.execute(statement, group, "a", "é" * (before // 2) + "x" * (before % 2))
    await sql.execute(statement.replace("1e4300", "1e4299"), group, "a", "x" * before)


async def test_the_limit_is_a_setting_up_to_what_one_reader_can_hold(sql: Sql, group: str) -> None:
    """Of a database, a role, or a session; nobody's setting goes past the highest, and nonsense is as if unset."""
    insert = INSERT_TEXT.format("jsonb_build_object('text', repeat('x', $3::int))")
    small = len('{"id": "a", "text": ""}')
    for given, size_max in (
        (None, SIZE_MAX_BYTES),
        ("5000", 5000),
        ("10", 4300),
        ("much", SIZE_MAX_BYTES),
        ("", SIZE_MAX_BYTES),
        ("10000000", 10_000_000),
        ("999999999", SIZE_MAX_BYTES_EVER),
        ("99999999999999", SIZE_MAX_BYTES),
    ):
        if given is not None:
            await sql.execute("select set_config('tidelog.item_size_max_bytes', $1, false)", given)
        with refused("tidelog_item_size"):
            await sql.execute(insert, group, "a", size_max - small + 1)
        await sql.execute(insert, group, "a", size_max - small)
        await sql.execute("delete from streams.chat_message where group_id = $1", group)


async def test_an_item_of_before_the_limits_can_be_left_mended_and_deleted(sql: Sql, group: str) -> None:
    """What changes nothing of it is nothing; an update that leaves it as large is refused; a smaller one is not."""
    await sql.execute("set tidelog.item_size_max_bytes = 10000")
    for id in ("a", "b"):
        await sql.execute(INSERT, group, id, {"text": "x" * 5000, "n": 1})
    await sql.execute("set tidelog.item_size_max_bytes = 4300")
    await sql.execute("update streams.chat_message set data = data where group_id = $1", group)
    with refused("tidelog_item_size"):
        await sql.execute("update streams.chat_message set data = data || '{\"n\": 2}' where group_id = $1", group)
    await sql.execute(UPDATE, group, "a", {"text": "x"})
    await sql.execute("delete from streams.chat_message where group_id = $1", group)
    assert [op for op, *_ in await log_of(sql, group)] == ["create", "create", "update", "delete", "delete"]


async def test_a_version_cant_be_set_by_a_writer(sql: Sql, group: str) -> None:
    """By INSERT, by an upsert, by COPY: an item begins with 1. Its times it may have from elsewhere: they place it."""
    insert = "insert into streams.chat_message (group_id, id, data, version) values ($1, $2, '{}', 9223372036854775807)"
    await sql.execute(insert, group, "a")
    for id in ("b", "b"):
        await sql.execute(
            f"{insert} on conflict (group_id, id) do update set version = excluded.version, data = '{{\"n\": 1}}'",
            group,
            id,
        )
    await sql.copy_records_to_table(
        "chat_message",
        schema_name="streams",
        columns=["group_id", "id", "data", "version", "created_at"],
        records=[(group, "c", {}, -5, datetime(2000, 1, 1, tzinfo=UTC))],
    )
    assert [change[:3] for change in await log_of(sql, group)] == [
        ("create", "a", 1),
        ("create", "b", 1),
        ("update", "b", 2),
        ("create", "c", 1),
    ]
    in_order = "select id, version from streams.chat_message where group_id = $1 order by created_at, id"
    assert [tuple(row) for row in await sql.fetch(in_order, group)] == [("c", 1), ("a", 1), ("b", 2)]


async def test_what_replication_applies_keeps_its_version(sql: Sql, group: str) -> None:
    """And so does what a superuser restores in replica mode; it is logged as it is, and counted on from there."""
    await sql.execute("set session_replication_role = replica")
    await sql.copy_records_to_table(
        "chat_message",
        schema_name="streams",
        columns=["group_id", "id", "data", "version"],
        records=[(group, "a", {}, 7)],
    )
    await sql.execute("set session_replication_role = origin")
    await sql.execute(UPDATE, group, "a", {"n": 1})
    assert [change[:3] for change in await log_of(sql, group)] == [("create", "a", 7), ("update", "a", 8)]


async def test_an_item_with_the_last_version_can_be_written_again(sql: Sql, group: str) -> None:
    """Its versions begin anew; moved, updated and deleted it is like any other."""
    await sql.execute("set session_replication_role = replica")
    await sql.execute(
        "insert into streams.chat_message (group_id, id, data, version) values ($1, 'a', '{}', 9223372036854775807)",
        group,
    )
    await sql.execute("set session_replication_role = origin")
    await sql.execute("update streams.chat_message set data = data where group_id = $1", group)
    assert (await sql.fetchrow(ROW, group, "a"))["version"] == 2**63 - 1
    await sql.execute(UPDATE, group, "a", {"n": 1})
    await sql.execute(UPDATE, group, "a", {"n": 2})
    assert [change[:3] for change in await log_of(sql, group)] == [
        ("create", "a", 2**63 - 1),
        ("update", "a", 1),
        ("update", "a", 2),
    ]


@pytest.mark.parametrize("name", ["a", "tidelog_d", "zzz", "~"])
async def test_what_a_trigger_of_yours_makes_of_an_item_is_what_is_looked_at(sql: Sql, group: str, name: str) -> None:
    """Whatever its name: the version moves when the data does, and the data has its id; else nothing happens."""
    await sql.execute(
        "create or replace function public.stamp() returns trigger language plpgsql as $$ begin "
        "new.data := (new.data - 'id') || jsonb_build_object('stamp', (new.data ->> 'n')::int / 10); "
        "new.version := 70; return new; end $$"
    )
    await sql.execute(INSERT, group, "a", {"n": 1})
    async with sql.transaction():
        await sql.execute(
            f'create trigger "{name}" before insert or update on streams.chat_message '
            "for each row execute function public.stamp()"
        )
        await sql.execute(UPDATE, group, "a", {"n": 1})  # the same, but for what the trigger makes of it
        await sql.execute(UPDATE, group, "a", {"n": 1, "stamp": 5})  # another one, but for that
        await sql.execute(INSERT, group, "b", {"n": 20})
        await sql.execute(f'drop trigger "{name}" on streams.chat_message')
    assert await log_of(sql, group) == [
        ("create", "a", 1, {"n": 1}),
        ("update", "a", 2, {"n": 1, "stamp": 0}),
        ("create", "b", 1, {"n": 20, "stamp": 2}),
    ]
    rows = await sql.fetch(
        "select id, data ->> 'id', version from streams.chat_message where group_id = $1 order by id", group
    )
    assert [tuple(row) for row in rows] == [("a", "a", 2), ("b", "b", 1)]


async def test_a_trigger_that_fires_after_ours_is_named_at_the_start(sql: Sql) -> None:
    """With the statement that gives it another place."""
    await sql.execute(
        "create or replace function public.nothing() returns trigger language plpgsql as $$ begin return new; end $$"
    )
    async with sql.transaction():
        await sql.execute(
            'create trigger "übersetzen" before update on streams.chat_message for each row '
            "execute function public.nothing()"
        )
        (row,) = await sql.fetch("select * from streams.examine('chatMessage', 'chat_message')")
        assert row["severity"] == "warn" and "übersetzen" in row["trouble"]
        await sql.execute(row["remedy"].split("`")[1])
        assert await sql.fetch("select * from streams.examine('chatMessage', 'chat_message')") == []
        await sql.execute('drop trigger "a_übersetzen" on streams.chat_message')
