"""Any writer: a row changed by psql, COPY or another program is in the feed like one changed by a step."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from websockets.asyncio.client import connect

from tests.acceptance.conftest import TwoServers
from tests.harness import FRAME_TIMEOUT_SECONDS, PSQL, RUN, Server, Sql, Subscriber, View, connect_sql, lift_limits
from tidelog.client import Client, Commit, Snapshot
from tidelog.json_text import parse, write

Seen = list[tuple[str, Any]]


@pytest.fixture
async def subscriber(here: Server) -> AsyncIterator[Subscriber]:
    async with Subscriber.connect(here) as subscriber:
        yield subscriber


@pytest.fixture
async def view(subscriber: Subscriber, sql: Sql, group: str) -> View:
    """A subscriber's view of the group, which has one note `there`."""
    await sql.execute("insert into streams.note (group_id, id, data) values ($1, 'there', '{\"n\": 0}')", group)
    return await subscriber.view("note", group)


def note(id: str, **data: Any) -> dict[str, Any]:
    return {"id": id, **data}


# Each with {group} for the group's name, quoted; and what a subscriber sees of it.
STATEMENTS: dict[str, tuple[str, Seen]] = {
    "insert": (
        "insert into streams.note (group_id, id, data) values ({group}, 'a', '{{\"n\": 1}}')",
        [("create", note("a", n=1))],
    ),
    "insert of many rows": (
        "insert into streams.note (group_id, id, data) "
        "select {group}, 'a' || n, jsonb_build_object('n', n) from generate_series(1, 3) as n",
        [("create", note(f"a{n}", n=n)) for n in (1, 2, 3)],
    ),
    "update": (
        "update streams.note set data = data || '{{\"n\": 1}}' where group_id = {group}",
        [("update", note("there", n=1))],
    ),
    "delete": (
        "delete from streams.note where group_id = {group}",
        [("delete", note("there", n=0))],
    ),
    "upsert of a row that is there": (
        "insert into streams.note (group_id, id, data) values ({group}, 'there', '{{\"n\": 1}}') "
        "on conflict (group_id, id) do update set data = excluded.data",
        [("update", note("there", n=1))],
    ),
    "upsert of a row that is not there": (
        "insert into streams.note (group_id, id, data) values ({group}, 'a', '{{\"n\": 1}}') "
        "on conflict (group_id, id) do update set data = excluded.data",
        [("create", note("a", n=1))],
    ),
    "upsert that does nothing": (
        "insert into streams.note (group_id, id, data) values ({group}, 'there', '{{\"n\": 1}}') "
        "on conflict do nothing",
        [],
    ),
    "upsert of the same data": (
        "insert into streams.note (group_id, id, data) values ({group}, 'there', '{{\"n\": 0}}') "
        "on conflict (group_id, id) do update set data = excluded.data",
        [],
    ),
    "update that changes nothing": (
        "update streams.note set data = data, version = 7, updated_at = now() where group_id = {group}",
        [],
    ),
    "merge": (
        "merge into streams.note using (values ('there', 1), ('a', 2)) as new (id, n) "
        "on note.group_id = {group} and note.id = new.id "
        "when matched then update set data = jsonb_build_object('n', n) "
        "when not matched then insert (group_id, id, data) values ({group}, new.id, jsonb_build_object('n', n))",
        [("update", note("there", n=1)), ("create", note("a", n=2))],
    ),
    "one statement that inserts what it deletes": (
        "with gone as (delete from streams.note where group_id = {group} returning *) "
        "insert into streams.note (group_id, id, data) select group_id, 'a', data from gone",
        [("delete", note("there", n=0)), ("create", note("a", n=0))],
    ),
    "a block that catches its error": (
        "do $$ begin "
        "  update streams.note set data = '{{\"n\": 1}}' where group_id = {group}; "
        "  begin "
        "    insert into streams.note (group_id, id, data) values ({group}, 'a', '{{}}'); "
        "    delete from streams.note where group_id = {group}; "
        "    raise 'undone'; "
        "  exception when others then null; end; "
        "end $$",
        [("update", note("there", n=1))],
    ),
    "a row whose data has no id, or another one": (
        "insert into streams.note (group_id, id, data) values ({group}, 'a', '{{}}'), ({group}, '5', '{{\"id\": 5}}')",
        [("create", note("a")), ("create", note("5"))],
    ),
}


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_statement_is_seen(subscriber: Subscriber, view: View, sql: Sql, group: str, name: str) -> None:
    """What one SQL statement changed arrives, row by row, and nothing else does."""
    statement, expected = STATEMENTS[name]
    await sql.execute(statement.format(group=f"'{group}'"))
    await subscriber.until_mark(sql, view)
    assert view.seen == expected


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
async def test_a_transaction_with_savepoints_is_seen_without_what_it_undid(
    subscriber: Subscriber, view: View, sql: Sql, group: str, isolation: str
) -> None:
    """At every isolation level: what was rolled back to a savepoint never shows, what was released does."""
    async with sql.transaction(isolation=isolation):
        with suppress(ZeroDivisionError):
            async with sql.transaction():
                await sql.execute("insert into streams.note (group_id, id, data) values ($1, 'undone', '{}')", group)
                raise ZeroDivisionError
        async with sql.transaction():
            await sql.execute("insert into streams.note (group_id, id, data) values ($1, 'kept', '{}')", group)
            with suppress(ZeroDivisionError):
                async with sql.transaction():
                    await sql.execute("delete from streams.note where group_id = $1", group)
                    raise ZeroDivisionError
    await subscriber.until_mark(sql, view)
    assert view.seen == [("create", note("kept"))]


async def test_copy_is_seen(subscriber: Subscriber, view: View, sql: Sql, group: str) -> None:
    """COPY FROM, the way in for bulk data, is one commit like any other."""
    rows = [(group, f"copied-{n}", {"n": n}) for n in range(500)]
    await sql.copy_records_to_table("note", schema_name="streams", columns=["group_id", "id", "data"], records=rows)
    await subscriber.until_mark(sql, view)
    assert view.seen == [("create", note(id, **data)) for _, id, data in rows]


async def test_a_prepared_statement_is_seen_each_time(subscriber: Subscriber, view: View, sql: Sql, group: str) -> None:
    """PREPARE and EXECUTE in SQL, and the protocol's prepared statements, past the switch to a generic plan."""
    await sql.execute(
        "prepare write (text, int) as update streams.note set data = jsonb_build_object('n', $2) where group_id = $1"
    )
    for n in range(1, 8):
        await sql.execute(f"execute write ('{group}', {n})")
    update = await sql.prepare("update streams.note set data = $2 where group_id = $1")
    for n in range(8, 15):
        await update.fetch(group, {"n": n})
    await subscriber.until_mark(sql, view)
    assert view.seen == [("update", note("there", n=n)) for n in range(1, 15)]


@pytest.mark.parametrize("what", ["id", "group_id"])
async def test_a_key_that_moves_is_a_delete_and_a_create(
    subscriber: Subscriber, view: View, sql: Sql, group: str, what: str
) -> None:
    """Whoever follows the old key sees it go, whoever follows the new one sees it come, with its new id."""
    moved = f"{group}, the other"
    other = await subscriber.view("note", moved)
    new = moved if what == "group_id" else "moved"
    await sql.execute(f"update streams.note set {what} = $2 where group_id = $1", group, new)
    for followed in (view, other):
        await subscriber.until_mark(sql, followed)
    gone = ("delete", note("there", n=0))
    if what == "group_id":
        assert (view.seen, other.seen) == ([gone], [("create", note("there", n=0))])
    else:
        assert (view.seen, other.seen) == ([gone, ("create", note("moved", n=0))], [])


async def test_logical_replications_apply_mode_is_seen(
    subscriber: Subscriber, view: View, sql: Sql, group: str
) -> None:
    """`session_replication_role = replica` turns ordinary triggers off, for apply workers and some restores."""
    await sql.execute("set session_replication_role = replica")
    await sql.execute("insert into streams.note (group_id, id, data) values ($1, 'a', '{\"n\": 1}')", group)
    await sql.execute("update streams.note set data = '{\"n\": 2}' where group_id = $1 and id = 'a'", group)
    await sql.execute("delete from streams.note where group_id = $1 and id = 'there'", group)
    await sql.execute("reset session_replication_role")
    await subscriber.until_mark(sql, view)
    assert view.seen == [("create", note("a", n=1)), ("update", note("a", n=2)), ("delete", note("there", n=0))]


@pytest.mark.parametrize("role", ["origin", "replica"])
async def test_truncate_is_refused_and_says_what_to_do(
    subscriber: Subscriber, view: View, sql: Sql, group: str, role: str
) -> None:
    """TRUNCATE fails, also in apply mode, with a hint; its subscribers keep what they have."""
    await sql.execute(f"set session_replication_role = {role}")
    with pytest.raises(asyncpg.FeatureNotSupportedError) as refused:
        await sql.execute("truncate streams.task, streams.note cascade")
    assert "DELETE FROM streams." in (refused.value.hint or "")
    await sql.execute("reset session_replication_role")
    await subscriber.until_mark(sql, view)
    assert view.items == {"there": note("there", n=0)}


async def test_psql_is_seen(subscriber: Subscriber, view: View, two_servers: TwoServers, sql: Sql, group: str) -> None:
    """The program that everybody has: a script, with \\copy, in one transaction."""
    script = f"""
        \\set ON_ERROR_STOP on
        begin;
        update streams.note set data = '{{"n": 1}}' where group_id = '{group}';
        \\copy streams.note (group_id, id, data) from stdin
{group}\ta\t{{"n": 2}}
\\.
        commit;
    """
    psql = await asyncio.create_subprocess_exec(
        PSQL, "--no-psqlrc", two_servers.database_url,
        stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    _, errors = await psql.communicate(script.encode())
    assert psql.returncode == 0, errors
    await subscriber.until_mark(sql, view)
    assert view.seen == [("update", note("there", n=1)), ("create", note("a", n=2))]


async def test_a_role_that_may_only_write_the_table_is_seen(
    subscriber: Subscriber, view: View, two_servers: TwoServers, sql: Sql, group: str
) -> None:
    """A writer needs rights on the stream's table and none on the feed's own."""
    role = f"tidelog_test_writer_{RUN}"
    await sql.execute(f"create role {role}")
    try:
        await sql.execute(f"grant usage on schema streams to {role}")
        await sql.execute(f"grant select, insert, update, delete on streams.note to {role}")
        writer = await connect_sql(two_servers.database_url)
        await writer.execute(f"set role {role}")
        await writer.execute("update streams.note set data = '{\"n\": 1}' where group_id = $1", group)
        await writer.execute("insert into streams.note (group_id, id, data) values ($1, 'a', '{}')", group)
        await writer.close()
        await subscriber.until_mark(sql, view)
    finally:
        await sql.execute(f"drop owned by {role}")
        await sql.execute(f"drop role {role}")
    assert view.seen == [("update", note("there", n=1)), ("create", note("a"))]


async def test_an_event_can_be_sent_in_sql(subscriber: Subscriber, view: View, sql: Sql, group: str) -> None:
    """streams.send in a transaction goes with it, behind its changes; or not at all."""
    with suppress(ZeroDivisionError):
        async with sql.transaction():
            await sql.execute("select streams.send('note', $1, null, 'undone', '1')", group)
            raise ZeroDivisionError
    async with sql.transaction():
        await sql.execute("select streams.send('note', $1, null, 'sent', $2)", group, {"by": "psql"})
        await sql.execute("update streams.note set data = '{\"n\": 1}' where group_id = $1", group)
    await subscriber.until_mark(sql, view)
    assert view.seen == [("update", note("there", n=1)), ("sent", {"by": "psql"})]


async def test_an_odd_item_reaches_everybody_and_hurts_nobody(here: Server, sql: Sql, group: str) -> None:
    """Numbers and depths of before the limits, as jsonb takes them: in a sync, a snapshot, and live; as JSON."""
    digits, deep = "7" * 131_072, "[" * 3000 + "]" * 3000
    odd = f"[{digits}, {deep}, 1{'0' * 400}]"
    await lift_limits(sql)
    insert = "insert into streams.note (group_id, id, data) values ($1, $2, $3::text::jsonb)"
    await sql.execute(insert, group, "before", f'{{"n": {odd}}}')
    join = {"type": "join", "data": {"streamName": "note", "groupId": group, "subscriptionId": "s"}}
    async with connect(here.ws_url, max_size=None) as motia, Client(here.ws_url, proxy=None, max_size=None) as client:
        await motia.send(json.dumps(join))
        messages = aiter(client.subscribe("note", group))
        async with asyncio.timeout(FRAME_TIMEOUT_SECONDS):
            sync, snapshot, _ = await motia.recv(), await anext(messages), await anext(messages)
            await sql.execute(insert, group, "live", f'{{"n": {odd}}}')
            frame, commit = await motia.recv(), await anext(messages)
            await sql.execute(insert, group, "usual", '{"n": 1}')
            assert (await anext(messages)).changes[0].data == note("usual", n=1)
    assert isinstance(snapshot, Snapshot) and isinstance(commit, Commit)
    found = [
        parse(str(sync))["event"]["data"][0],
        parse(str(frame))["event"]["data"],
        snapshot.items[0].data,
        commit.changes[0].data,
    ]
    assert [item["id"] for item in found] == ["before", "live", "before", "live"]
    assert {write(item["n"], repr).replace(",", ", ") for item in found} == {odd}
