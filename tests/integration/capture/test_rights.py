"""Who may write, and what a writer can't do."""

from __future__ import annotations

import json
import re

import asyncpg
import pytest

from tests.harness import Sql
from tests.integration.capture.log import INSERT, log_of


async def test_a_writer_needs_rights_on_the_streams_table_alone(sql: Sql, group: str, role: str) -> None:
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


async def test_the_log_cant_be_written_by_a_trigger_of_ones_own(sql: Sql, group: str, role: str) -> None:
    """Who may only write one table can't put what it likes into any stream's feed by a table of its own."""
    await sql.execute(f"grant usage on schema streams to {role}")
    await sql.execute(f"set role {role}")
    await sql.execute("create temporary table forged (group_id text, id text, version bigint, data jsonb)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await sql.execute(
            "create trigger forge after insert on forged for each row "
            "execute function streams.record_change('chatMessage')"
        )


SEND = "select streams.send($1, $2, $3, $4, '{}')"
INSERT_EVENT = "insert into streams.event (seq, stream, group_id, type, data) values (1, 'chatMessage', $1, 't', '{}')"


async def events_of(sql: Sql, group: str) -> list[str]:
    return [row["type"] for row in await sql.fetch("select type from streams.event where group_id = $1", group)]


@pytest.mark.parametrize("right", ["insert", "insert (group_id, id, data)"])
async def test_who_may_write_a_stream_may_send_to_it(sql: Sql, group: str, role: str, right: str) -> None:
    """Nobody else; whatever else he may do in the schema, and with the table."""
    await sql.execute(f"grant usage on schema streams to {role}")
    await sql.execute(f"grant select, update, delete on streams.chat_message to {role}")
    await sql.execute(f"set role {role}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied to send to stream chatMessage"):
        await sql.execute(SEND, "chatMessage", group, None, "denied")
    await sql.execute(f"reset role; grant {right} on streams.chat_message to {role}; set role {role}")
    await sql.execute(SEND, "chatMessage", group, None, "typing")
    await sql.execute("reset role")
    assert await events_of(sql, group) == ["typing"]


async def test_an_event_for_no_stream_is_an_error(sql: Sql, group: str, role: str) -> None:
    """For whoever sends it: it would reach nobody."""
    await sql.execute(f"grant usage on schema streams to {role}")
    for who in ("none", role):
        await sql.execute(f"set role {who}")
        with pytest.raises(asyncpg.UndefinedObjectError, match="no stream is named 'chat_message'"):
            await sql.execute(SEND, "chat_message", group, None, "typing")


async def test_the_rights_are_those_of_the_role_at_work(sql: Sql, group: str, role: str) -> None:
    """In a function that runs with its owner's rights: the owner's, be they more or fewer than the caller's."""
    await sql.execute(f"grant usage on schema streams to {role}")
    define = (
        "create function public.tell(g text) returns void language sql security definer "
        "as $$ select streams.send('chatMessage', g, null, 'told', '{}') $$"
    )
    await sql.execute(f"{define}; set role {role}")
    await sql.execute("select public.tell($1)", group)
    await sql.execute(f"reset role; alter function public.tell owner to {role}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await sql.execute("select public.tell($1)", group)
    assert await events_of(sql, group) == ["told"]


async def test_the_events_cant_be_written_past_the_check(sql: Sql, group: str, role: str) -> None:
    """Nor read, removed, or put where they don't belong in the order of writes."""
    await sql.execute(f"grant usage on schema streams to {role}; set role {role}")
    for statement, *arguments in (
        (INSERT_EVENT, group),
        ("select streams.send('chatMessage', $1, null, 't', '{}') from pg_class limit 1", group),
        ("insert into streams.event (xid, stream, group_id, type, data) values ('3', 'chatMessage', 'g', 't', '{}')",),
        ("select * from streams.event",),
        ("delete from streams.event",),
        ("alter table streams.event disable trigger all",),
        ("create trigger mine before insert on streams.event for each row execute function streams.check_event()",),
        ("set session_replication_role = replica",),
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await sql.execute(statement, *arguments)
    await sql.execute(f"reset role; grant insert on streams.chat_message to {role}")
    before = await sql.fetchval("select nextval('streams.write_seq')")
    await sql.execute(f"set role {role}")
    await sql.execute(INSERT_EVENT, group)
    await sql.execute("reset role")
    assert await sql.fetchval("select seq from streams.event where group_id = $1", group) > before


@pytest.mark.parametrize("letter", ["k", "é"])
@pytest.mark.parametrize(("argument", "most"), [("group_id", 1024), ("id", 1024), ("type", 256)])
async def test_an_event_has_an_address_and_a_type_of_bounded_length(
    sql: Sql, group: str, argument: str, most: int, letter: str
) -> None:
    """1 to so many bytes, as items have; by send and by INSERT."""
    size = len(letter.encode())

    def event(length: int) -> list[str]:
        values = {"group_id": group, "id": "a", "type": "typing"}
        values[argument] = letter * (length // size) + "k" * (length % size)
        return ["chatMessage", *values.values()]

    insert = "insert into streams.event (stream, group_id, id, type, data) values ($1, $2, $3, $4, '{}')"
    for statement in (SEND, insert):
        await sql.execute(statement, *event(1))
        await sql.execute(statement, *event(most))
        for length in (0, most + 1):
            with pytest.raises(asyncpg.CheckViolationError):
                await sql.execute(statement, *event(length))


# Everything that the functions below look up by name, as (name, arguments, result).
FUNCTIONS = [
    ("pg_try_advisory_xact_lock_shared", "int, int", "bool"),
    ("pg_notify", "text, text", "void"),
    ("clock_timestamp", "", "timestamptz"),
    ("to_jsonb", "text", "jsonb"),
    ("to_jsonb", "anyelement", "jsonb"),
    ("jsonb_build_object", "text, text", "jsonb"),
    ("jsonb_build_object", "variadic text[]", "jsonb"),
    ("jsonb_typeof", "jsonb", "text"),
    ("octet_length", "text", "int"),
    ("format", "text, variadic text[]", "text"),
    ("nextval", "regclass", "bigint"),
    ("pg_current_xact_id", "", "xid8"),
    ("to_regclass", "text", "regclass"),
    ("has_sequence_privilege", "oid, text", "bool"),
    ("has_column_privilege", "oid, text, text", "bool"),
    ("jsonb_path_exists", "jsonb, jsonpath", "bool"),
    ("current_setting", "text", "text"),
    ("current_setting", "text, bool", "text"),
    ("convert_to", "text, name", "bytea"),
    ("get_byte", "bytea, int", "int"),
]
OPERATORS = [
    ("=", "text", "text", "bool"), ("<>", "text", "text", "bool"), ("<>", "text", "name", "bool"),
    ("<>", "name", "name", "bool"), ("<>", "name", "text", "bool"), ("=", "jsonb", "jsonb", "bool"),
    ("->", "jsonb", "text", "jsonb"), ("||", "jsonb", "jsonb", "jsonb"), ("=", "bigint", "bigint", "bool"),
    ("+", "bigint", "int", "bigint"), ("+", "bigint", "bigint", "bigint"), ("<", "int", "int", "bool"),
    (">", "int", "int", "bool"), ("<=", "int", "int", "bool"), ("-", "int", "int", "int"), ("+", "int", "int", "int"),
    ("%", "bigint", "bigint", "bigint"), ("<>", "bigint", "int", "bool"), ("<>", "bigint", "bigint", "bool"),
    ("~", "text", "text", "bool"),
]  # fmt: skip
TYPES = ["text", "name", "oid", "regclass", "jsonb", "jsonpath", "bytea", "bigint", "int4", "int8", "timestamptz"]
TABLES = ["change", "event", "stream", "commit", "chat_message"]


async def bend_path(sql: Sql, role: str) -> None:
    """Give the session a path on which everything of ours and of pg_catalog is the role's, and raises when it runs."""
    await sql.execute(f"create schema evil authorization {role}; set role {role}")
    body = "language plpgsql as $$ begin raise 'called as %', current_user; end $$"
    for name, arguments, result in FUNCTIONS:
        await sql.execute(f"create function evil.{name}({arguments}) returns {result} {body}")
    for number, (name, left, right, result) in enumerate(OPERATORS):
        await sql.execute(f"create function evil.operator_{number}({left}, {right}) returns {result} {body}")
        await sql.execute(
            f"create operator evil.{name} (leftarg = {left}, rightarg = {right}, function = evil.operator_{number})"
        )
    check = f"create function evil.check_it(text) returns bool {body}"
    await sql.execute(check)
    for name in TYPES:
        await sql.execute(f"create domain evil.{name} as pg_catalog.text check (evil.check_it(value))")
        await sql.execute(f'create temporary table "{name}" (n pg_catalog.int4)')
    for name in TABLES:
        await sql.execute(f"create table evil.{name} (stream pg_catalog.text)")
        await sql.execute(f"create temporary table {name} (stream pg_catalog.text)")
    await sql.execute("set search_path = pg_temp, evil, pg_catalog")


LONG = json.dumps({"text": "7" * 10_000})
DEEP = "[" * 300 + "]" * 300
LONG_NUMBER = "7" * 5000


async def test_a_search_path_changes_nothing(url: str, group: str, sql: Sql, role: str) -> None:
    """Functions, operators, types and tables of the writer's own, first in its path, are not what is called.

    Neither with his rights nor with the owner's; in every branch of the triggers, and in a session whose first write
    it is: what is compiled then is kept.
    """
    await sql.execute(f"grant usage on schema streams to {role}")
    await sql.execute(f"grant insert, select, update, delete on streams.chat_message to {role}")
    writer = await asyncpg.connect(url)
    try:
        await sql.execute(
            f"grant create on database {await sql.fetchval('select quote_ident(current_database())')} to {role}"
        )
        await bend_path(writer, role)
        where = f"where group_id operator(pg_catalog.=) '{group}'"
        for statement in (
            f"insert into streams.chat_message (group_id, id, data) values ('{group}', 'a', '{{}}')",
            f"insert into streams.chat_message (group_id, id, data) values ('{group}', 'b', '{{\"id\": \"b\"}}')",
            f"update streams.chat_message set data = '{{\"n\": 1}}' {where}",
            f"update streams.chat_message set data = '{{\"n\": 1}}' {where}",
            f"update streams.chat_message set id = 'c' {where} and id operator(pg_catalog.=) 'b'",
            f"delete from streams.chat_message {where} and id operator(pg_catalog.=) 'c'",
            f"select streams.send('chatMessage', '{group}', null, 'typing', '{{}}')",
            "set tidelog.item_size_max_bytes = 20000",
            f"insert into streams.chat_message (group_id, id, data, version) values ('{group}', 'd', '{LONG}', 5)",
            f"select streams.send('chatMessage', '{group}', null, 'long', '{LONG}')",
        ):
            await writer.execute(statement)
        for statement, error in (
            (f"update streams.chat_message set data = '[]' {where}", asyncpg.CheckViolationError),
            (
                f"update streams.chat_message set id = '' {where} and id operator(pg_catalog.=) 'a'",
                asyncpg.CheckViolationError,
            ),
            ("select streams.send('chatMessage', '', null, 'typing', '{}')", asyncpg.CheckViolationError),
            ("select streams.send('chatMessage', 'g', null, '', '{}')", asyncpg.CheckViolationError),
            (f"update streams.chat_message set data = '[[{LONG},{LONG}]]' {where}", asyncpg.CheckViolationError),
            (
                f"update streams.chat_message set data = '{{\"n\":[{LONG},{LONG}]}}' {where}",
                asyncpg.CheckViolationError,
            ),
            (f"select streams.send('chatMessage', 'g', null, 't', '[{LONG},{LONG}]')", asyncpg.CheckViolationError),
            (f"select streams.send('chatMessage', 'g', null, 't', '{DEEP}')", asyncpg.CheckViolationError),
            (f"select streams.send('chatMessage', 'g', null, 't', '{LONG_NUMBER}')", asyncpg.CheckViolationError),
            ("select streams.send('none', 'g', null, 'typing', '{}')", asyncpg.UndefinedObjectError),
        ):
            with pytest.raises(error):
                await writer.execute(statement)
        await sql.execute(f"revoke insert on streams.chat_message from {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied to send"):
            await writer.execute(f"select streams.send('chatMessage', '{group}', null, 'typing', '{{}}')")
    finally:
        await writer.close()
    assert await log_of(sql, group) == [
        ("create", "a", 1, {}),
        ("create", "b", 1, {}),
        ("update", "a", 2, {"n": 1}),
        ("update", "b", 2, {"n": 1}),
        ("delete", "b", 2, {"n": 1}),
        ("create", "c", 3, {"n": 1}),
        ("delete", "c", 3, {"n": 1}),
        ("create", "d", 1, json.loads(LONG)),
    ]
    assert await events_of(sql, group) == ["typing", "long"]


@pytest.mark.parametrize(
    "function", ["complete_item", "record_change", "check_json", "check_event", "send", "next_seq"]
)
async def test_nothing_that_runs_in_a_writers_path_looks_anything_up_there(sql: Sql, function: str) -> None:
    """Every function, type and operator is written out; the forms that hide an operator are not used."""
    source = await sql.fetchval(
        "select prosrc from pg_proc where pronamespace = 'streams'::regnamespace and proname = $1", function
    )
    assert await sql.fetchval("select proconfig from pg_proc where proname = $1", function) is None
    code = re.sub(r"--[^\n]*", "", source)
    code = re.sub(r"'(?:[^']|'')*'", "''", code)
    code = re.sub(r"\b(message|hint|schema|table|column|constraint) =", "", code)  # of RAISE
    code = re.sub(r"operator\(pg_catalog\.[^ )]+\)", " ", code)
    keywords = {"values", "select", "change", "event", "exists", "and", "or", "not", "in", "if"}
    called = re.findall(r"(?<![\w.])(\w+(?:\.\w+)?)\s*\(", code)
    assert [name for name in called if "." not in name and name not in keywords] == []
    assert {name.partition(".")[0] for name in called if "." in name} <= {"pg_catalog", "streams"}
    assert re.findall(r"::(?!pg_catalog\.)", code) == []
    assert re.findall(r"\b(?:between|distinct from|like|similar|nullif|greatest|least|any|all)\b", code) == []
    assert re.findall(r"(?<!:)[<>=+*/|~-]+(?!=)", code.replace(":=", "").replace("select from", "")) == []
