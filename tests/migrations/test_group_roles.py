"""The group roles that a migration makes: their rights suffice, and nothing else can be done with them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url

import tidelog
from tests.harness import RUN, Databases, Server, StepsFolder, Subscriber, connect_sql, eventually, free_port, migrate
from tests.integration.restore_fixtures import cluster, run
from tests.migrations.test_roles import GRANTS, NOTE_STEP, SERVE, WORK_GRANTS
from tests.migrations.test_upgrade import TASK_STREAM

GROUPS = ("tidelog_owner", "tidelog_server", "tidelog_writer", "tidelog_reader")
RIGHTS = """
select c.relname, string_agg(lower(a.privilege_type), ' ' order by a.privilege_type) as rights
from pg_class c, aclexplode(c.relacl) a
where c.relnamespace = 'streams'::regnamespace and a.grantee = $1::regrole group by c.relname
"""
WRITE = "insert into streams.note (group_id, id, data) values ('g', $1, '{}')"
MAY_LOG = "select has_function_privilege('public', 'streams.record_change()', 'execute')"
SCHEMAS_OWNER = "select nspowner::regrole::text from pg_namespace where nspname = 'streams'"
HISTORY = "select op, id from streams.note_history order by position, seq"
DENIED = asyncpg.InsufficientPrivilegeError

MemberOf = Callable[..., Any]


def url_as(url: str, name: str) -> str:
    return make_url(url).set(username=name, password="x").render_as_string(hide_password=False)


@asynccontextmanager
async def login(sql: Any, name: str, *options: str) -> AsyncIterator[str]:
    """A role of the test's own, with its full name."""
    name = f"tidelog_test_{name}_{RUN}"
    await sql.execute(f"create role {name} login password 'x' {' '.join(options)}")
    yield name
    await sql.execute(f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = '{name}'")
    await sql.execute(f"drop owned by {name} cascade")
    await sql.execute(f"drop role {name}")


@pytest.fixture
async def member_of(sql: Any, url: str) -> AsyncIterator[MemberOf]:
    """`await member_of("tidelog_writer")`: the database as a member of it, and nothing else, sees it."""
    names: dict[str, str] = {}
    async with AsyncExitStack() as stack:

        async def connect(group: str) -> asyncpg.Connection[Any]:
            name = names.get(group) or await stack.enter_async_context(
                login(sql, group.removeprefix("tidelog_"), f"in role {group}")
            )
            names[group] = name
            connection = await connect_sql(url_as(url, name))
            stack.push_async_callback(connection.close)
            return connection

        yield connect


@pytest.fixture
async def alone() -> AsyncIterator[Databases]:
    """A cluster in which nobody has migrated yet."""

    with cluster() as databases:
        yield databases


async def rights_of(sql: Any, role: str) -> dict[str, str]:
    return {row["relname"]: row["rights"] for row in await sql.fetch(RIGHTS, role)}


async def denied(connection: Any, statement: str) -> None:
    with pytest.raises(DENIED):
        await connection.execute(statement)
    await connection.execute("rollback")


async def test_the_server_role_has_the_listed_grants(sql: Any) -> None:
    """Those of the README, for the streams that there are; nobody can log in as a group."""
    name = f"tidelog_test_listed_{RUN}"
    listed = re.sub(r"\bapp\b", name, GRANTS + WORK_GRANTS)
    listed = listed.replace("streams.job", "streams.note").replace("_job_log", "_note_log")
    await sql.execute(f"create role {name}; {listed}")
    assert await rights_of(sql, "tidelog_server") == await rights_of(sql, name)
    await sql.execute(f"drop owned by {name}; drop role {name}")
    assert not await sql.fetch("select from pg_roles where rolname = any($1) and (rolcanlogin or rolsuper)", GROUPS)
    assert await sql.fetchval(SCHEMAS_OWNER) == GROUPS[0]
    assert not await sql.fetch(
        "select oid::regprocedure from pg_proc where pronamespace = 'streams'::regnamespace "
        "and proowner <> 'tidelog_owner'::regrole"
    )


@pytest.mark.parametrize("table", ["note", "note_history", "change", "commit", "event", "epoch", "consumer"])
async def test_writers_and_readers_have_what_they_are_named_for(sql: Any, table: str) -> None:
    everything = "delete insert select update"
    assert (await rights_of(sql, "tidelog_writer")).get(table) == {"note": everything}.get(table)
    assert (await rights_of(sql, "tidelog_reader")).get(table) == dict.fromkeys(["note", "note_history"], "select").get(
        table
    )


@pytest.mark.parametrize("table", ["step_job", "step_parked", "step_cron", "step_stream"])
async def test_the_queue_is_the_servers(sql: Any, table: str) -> None:
    """What is in it may be anything that a step knows."""
    rights = {group: (await rights_of(sql, group)).get(table) for group in GROUPS[1:]}
    assert rights == {"tidelog_server": "delete insert select update", "tidelog_writer": None, "tidelog_reader": None}


async def test_a_writer_writes_and_sends(member_of: MemberOf, sql: Any, url: str) -> None:
    """By SQL and by tidelog.open; what it wrote is logged, and it can't read that."""
    writer = await member_of("tidelog_writer")
    await writer.execute(WRITE, "b")
    await writer.execute("update streams.note set data = '{\"n\": 2}' where id = 'b'")
    await writer.execute("delete from streams.note where id = 'b'")
    await writer.execute("select streams.send('note', 'g', null, 'typing', '{}')")
    assert [row["type"] for row in await sql.fetch("select type from streams.event")] == ["typing"]
    written = "select op from streams.change where id = 'b' order by seq"
    assert [row["op"] for row in await sql.fetch(written)] == ["create", "update", "delete"]
    me = await writer.fetchval("select current_user")
    async with tidelog.open(url_as(url, me)) as streams:
        assert await streams.note.set("g", "c", {"n": 3}) == {"id": "c", "n": 3}
        await streams.note.send({"groupId": "g"}, {"type": "opened", "data": {}})
    for statement in (HISTORY, "select * from streams.change", "select * from streams.commit"):
        await denied(writer, statement)


async def test_a_reader_reads_items_and_history(member_of: MemberOf, sql: Any) -> None:
    """And can neither write nor send."""
    reader = await member_of("tidelog_reader")
    assert await reader.fetchval("select data from streams.note") == {"id": "a", "n": 1}
    await reader.fetch(HISTORY)
    for statement in (
        "insert into streams.note (group_id, id, data) values ('g', 'b', '{}')",
        "update streams.note set data = '{}'",
        "delete from streams.note",
        "select streams.send('note', 'g', null, 'typing', '{}')",
        "insert into streams.event (stream, group_id, type, data) values ('note', 'g', 'typing', '{}')",
        "select * from streams.change",
        "select * from streams.event",
        "select * from streams.consumer",
        "select id from streams.note for update",
        "begin; lock table streams.note in row exclusive mode",
    ):
        await denied(reader, statement)


async def test_a_barrier_keeps_a_reader_of_one_streams_history_from_anothers(
    url: str, sql: Any, note_steps: StepsFolder
) -> None:
    """Whose own function would be called for each row before the view has left out what isn't the stream's.

    It is for whoever grants single histories: with it, Postgres reads all of a history for its newest commits.
    """
    await sql.execute("alter view streams.note_history set (security_barrier)")
    note_steps.write("task_stream.py", TASK_STREAM)
    await asyncio.to_thread(migrate, url, note_steps.path)
    await sql.execute("insert into streams.task_list (group_id, id, data) values ('g', 'secret', '{}')")
    await sql.execute(
        "insert into streams.commit (number, xid, last_seq, at) "
        "select row_number() over (), xid, max(seq), now() from streams.change group by xid"
    )
    async with login(sql, "curious") as name:
        await sql.execute(f"grant usage on schema streams to {name}; grant select on streams.note_history to {name}")
        curious = await connect_sql(url_as(url, name))
        told: list[str] = []
        curious.add_log_listener(lambda _, message: told.append(message.message))
        await curious.execute(
            "create function pg_temp.look(id text) returns boolean language plpgsql cost 0.0000001 "
            "as $$ begin raise notice '%', id; return true; end $$"
        )
        assert await curious.fetchval("select count(*) from streams.note_history where pg_temp.look(id)") == 1
        await curious.close()
    assert told == ["a"]


FORGERIES = {
    "a log row": "insert into streams.change (stream, group_id, id, op, version, data) "
    "values ('note', 'g', 'x', 'create', 1, '{}')",
    "a log row's data": "update streams.change set data = '{}'",
    "a place in the order": "select nextval('streams.write_seq')",
    "the places to come": "select setval('streams.write_seq', 1)",
    "another's xid": "insert into streams.event (xid, stream, group_id, type, data) "
    "values ('3', 'note', 'g', 't', '{}')",
    "an event for no stream": "insert into streams.event (stream, group_id, type, data) values ('x', 'g', 't', '{}')",
    "a trigger of its own": "create trigger t after insert on streams.note for each row "
    "execute function streams.record_change('note', 'note')",
    "a table with ours": "create temporary table t (like streams.note); create trigger t after insert on t "
    "for each row execute function streams.record_change('note', 'note')",
    "a stream": "select streams.declare('fake', 'fake', '{}')",
    "a stream's row": "insert into streams.stream (name, table_name, schema) values ('fake', 'note', '{}')",
    "a consumer": "insert into streams.consumer (name, position, epoch) values ('c', 0, gen_random_uuid())",
    "a log that is empty": "truncate streams.change",
    "a commit's time": "update streams.commit set at = now()",
    "the triggers": "alter table streams.note disable trigger all",
    "no triggers": "set session_replication_role = replica",
    "a function": "create or replace function streams.next_seq() returns bigint language sql as 'select 1'",
    "a table": "create table streams.fake (n int)",
    "a view": "create view streams.fake as select 1",
    "a table's name": "alter table streams.note rename to other",
    "an owner": "alter table streams.note owner to current_user",
    "a role": "set role tidelog_owner",
    "a right": "grant select on streams.note to public",
    "others' settings": "alter role tidelog_server set statement_timeout = 1",
    "the database's settings": "do $$ begin execute format('alter database %I set statement_timeout = 1', "
    "current_database()); end $$",
    "a lock on the log": "lock table streams.change in access share mode",
    "a lock on the numbers": "lock table streams.commit in share mode",
    "a lock on the events": "lock table streams.event in row exclusive mode",
    "a lock on the revision": "lock table streams.alembic_version in access exclusive mode",
    "a stop": "select pg_terminate_backend(pid) from pg_stat_activity "
    "where datname = current_database() and usename <> current_user",
    "a publication": "create publication p for table streams.change",
}
NUMBERS = {
    "a number": "insert into streams.commit (number, xid, last_seq, at) values (1000, '3', 1, now())",
    "an epoch": "insert into streams.epoch (system_identifier, timeline, database, log, since_number, began_at) "
    "values (1, 1, 1, 1, 0, now())",
    "a log row less": "delete from streams.change",
    "a number less": "delete from streams.commit",
}
# What a server may do beside: it reads the log, so it may lock it as one who reads or deletes may; and stream steps are
# a durable consumer of its own.
SERVERS = {"a consumer", "a lock on the log", "a lock on the numbers", "a lock on the events"}


@pytest.mark.parametrize("group", GROUPS[1:])
async def test_what_a_role_can_t_do(member_of: MemberOf, sql: Any, group: str) -> None:
    """Forge what the feed tells, or take it away: each is tried."""
    member = await member_of(group)
    await denied(member, "alter system set statement_timeout = 1")
    tries = FORGERIES | (NUMBERS if group != "tidelog_server" else {})
    before = await sql.fetch("select * from streams.change"), await sql.fetchval("select count(*) from streams.event")
    could = []
    for what, statement in tries.items():
        if group == "tidelog_server" and what in SERVERS:
            continue
        transaction = member.transaction()
        await transaction.start()
        try:
            await member.execute(statement)
        except (DENIED, asyncpg.ObjectNotInPrerequisiteStateError):
            pass
        else:
            if what != "a right":  # whose lack is a warning: nothing was granted
                could.append(what)
        await transaction.rollback()
    assert could == []
    after = await sql.fetch("select * from streams.change"), await sql.fetchval("select count(*) from streams.event")
    assert after == before
    assert not await sql.fetchval("select has_table_privilege('public', 'streams.note', 'select')")


async def test_who_may_write_one_stream_can_t_send_to_another(url: str, sql: Any, note_steps: StepsFolder) -> None:
    """Nor write it; a member of no group, with the right to one table."""
    note_steps.write("task_stream.py", TASK_STREAM)
    await asyncio.to_thread(migrate, url, note_steps.path)
    async with login(sql, "narrow") as name:
        await sql.execute(f"grant usage on schema streams to {name}; grant select, insert on streams.note to {name}")
        narrow = await connect_sql(url_as(url, name))
        await narrow.execute(WRITE, "b")
        await narrow.execute("select streams.send('note', 'g', null, 'typing', '{}')")
        for statement in (
            "select streams.send('taskList', 'g', null, 'typing', '{}')",
            "insert into streams.event (stream, group_id, type, data) values ('taskList', 'g', 'typing', '{}')",
            "insert into streams.task_list (group_id, id, data) values ('g', 'b', '{}')",
        ):
            await denied(narrow, statement)
        await narrow.close()


HINDRANCES = {
    "the sequencer's lock": "select pg_advisory_lock(1953064044, 1)",
    "the doorbell's lock": "select pg_advisory_lock(1953064044, 2)",
    "the doorbell's lock, shared": "select pg_advisory_lock_shared(1953064044, 2)",
    "the migrations' lock": "select pg_advisory_lock(1953064044, 3)",
    "a forged head": "select pg_notify('tidelog_head', '9223372036854775807')",
    "a forged epoch": "select pg_notify('tidelog_epoch', gen_random_uuid()::text)",
    "forged bells": "select pg_notify('tidelog_doorbell', n::text) from generate_series(1, 1000) n",
    "an old snapshot": "begin isolation level repeatable read; select count(*) from streams.note",
    "settings": "set synchronous_commit = off; set statement_timeout = 1; set tidelog.item_size_max_bytes = 1",
}
END_SEQUENCER = (
    "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
    "where datname = current_database() and application_name = 'tidelog sequencer'"
)
IS_WAITING = "select exists (select from pg_locks where locktype = 'advisory' and pid = $1 and not granted)"


@pytest.mark.parametrize("group", ["tidelog_writer", "tidelog_reader"])
async def test_a_server_of_the_server_role_is_hindered_by_no_writer_or_reader(
    member_of: MemberOf, sql: Any, url: str, note_steps: StepsFolder, group: str
) -> None:
    """NOTIFY, advisory locks, open transactions, settings: commits are delivered meanwhile, each once, in order."""
    note_steps.write("add_note_step.py", NOTE_STEP)
    async with login(sql, "app", "in role tidelog_server") as name, AsyncExitStack() as stack:
        server = Server(url_as(url, name), note_steps.path, {}, free_port(), SERVE)
        stack.push_async_callback(server.stop)
        await server.wait_until_ready()
        subscriber = await stack.enter_async_context(Subscriber.connect(server))
        http = await stack.enter_async_context(server.http())
        view = await subscriber.view("note", "g")
        for what, statement in HINDRANCES.items():
            member = await member_of(group)
            hindering = asyncio.ensure_future(member.execute(statement))
            pid = member.get_server_pid()
            await eventually(lambda pid=pid, done=hindering.done: done() or sql.fetchval(IS_WAITING, pid))
            if what == "the sequencer's lock":
                await sql.execute(END_SEQUENCER)  # it queued behind it, and has it now
                await hindering
            assert (await http.post("/notes", json={"id": what})).status_code == 201
            await subscriber.until_mark(sql, view)
            assert what in view.items
            member.terminate()
            await asyncio.gather(hindering, return_exceptions=True)
        created = [data["id"] for kind, data in view.seen if kind == "create"]
        assert created == list(HINDRANCES)


async def test_a_member_of_the_owner_migrates(url: str, sql: Any, note_steps: StepsFolder) -> None:
    """It is no superuser; what it makes is the group's, with the rights that the other groups have on every stream."""
    note_steps.write("task_stream.py", TASK_STREAM)
    async with login(sql, "alice", "in role tidelog_owner") as name:
        done = await asyncio.to_thread(migrate, url_as(url, name), note_steps.path)
        assert "made streams.task_list" in done.stderr
        assert not await sql.fetch(
            "select from pg_class where relnamespace = 'streams'::regnamespace and relowner <> 'tidelog_owner'::regrole"
        )
        assert (await rights_of(sql, "tidelog_writer"))["task_list"] == "delete insert select update"
        assert (await rights_of(sql, "tidelog_reader"))["task_list_history"] == "select"


async def test_rights_that_were_taken_away_stay_away(url: str, sql: Any, note_steps: StepsFolder) -> None:
    """Readers that may not see one stream don't see it after the next migration."""
    await sql.execute("revoke all on streams.note, streams.note_history from tidelog_reader")
    await sql.execute("revoke delete on streams.note from tidelog_writer")
    note_steps.write("task_stream.py", TASK_STREAM)
    await asyncio.to_thread(migrate, url, note_steps.path)
    assert {"note", "note_history"}.isdisjoint(await rights_of(sql, "tidelog_reader"))
    assert (await rights_of(sql, "tidelog_reader"))["task_list"] == "select"
    assert (await rights_of(sql, "tidelog_writer"))["note"] == "insert select update"


async def test_the_first_migrations_of_a_cluster_make_the_roles_at_once(
    alone: Databases, note_steps: StepsFolder
) -> None:
    """In four databases, twice in each: none fails, and each has its rights."""
    urls = [await alone.create() for _ in range(4)]
    await asyncio.gather(*(asyncio.to_thread(migrate, url, note_steps.path) for url in urls * 2))
    for url in urls:
        sql = await connect_sql(url)
        assert (await rights_of(sql, "tidelog_server"))["commit"] == "delete insert select"
        assert (await rights_of(sql, "tidelog_writer"))["note"] == "delete insert select update"
        await sql.close()


async def test_who_may_not_make_roles_migrates_all_the_same(alone: Databases, note_steps: StepsFolder) -> None:
    """Nothing is granted to roles of which others choose the members; what is to be done is told, once a migration."""
    url = await alone.create()
    sql = await connect_sql(url)
    database = make_url(url).database
    async with login(sql, "tenant") as name:
        await sql.execute(f'grant create on database "{database}" to {name}')
        said = (await asyncio.to_thread(migrate, url_as(url, name), note_steps.path)).stderr
        assert "made streams.note" in said
        for group in GROUPS:
            assert f"there is no role {group}, and {name} may not make it" in said
        # Another database's superuser makes them.
        await asyncio.to_thread(migrate, await alone.create(), note_steps.path)
        said = (await asyncio.to_thread(migrate, url_as(url, name), note_steps.path)).stderr
        assert f"`grant tidelog_reader to {name} with admin option`" in said
        assert [await rights_of(sql, group) for group in GROUPS] == [{}, {}, {}, {}]
        # The tenant still owns what it made, also when a superuser migrates: it may be what serves.
        await asyncio.to_thread(migrate, url, note_steps.path)
        assert await sql.fetchval(SCHEMAS_OWNER) == name
        assert (await rights_of(sql, "tidelog_reader"))["note"] == "select"
    await sql.close()


async def test_a_role_whose_members_others_choose_gets_nothing(alone: Databases, note_steps: StepsFolder) -> None:
    """Though a superuser migrates: who made the roles, or may give them away, would have let himself in."""
    url = await alone.create()
    sql = await connect_sql(url)
    async with login(sql, "patient") as name:
        await sql.execute(f"create role tidelog_reader; grant tidelog_reader to {name} with admin option")
        said = (await asyncio.to_thread(migrate, url, note_steps.path)).stderr
        assert f"its members are also chosen by {name}" in said
        assert await rights_of(sql, "tidelog_reader") == {}
        await sql.execute(f"revoke admin option for tidelog_reader from {name}")
        await asyncio.to_thread(migrate, url, note_steps.path)
        assert (await rights_of(sql, "tidelog_reader"))["note"] == "select"
        assert (await rights_of(sql, "tidelog_reader"))["note_history"] == "select"
    await sql.close()


@pytest.mark.parametrize("option", ["login", "superuser"])
async def test_a_role_that_is_somebodys_own_is_left_alone(
    alone: Databases, note_steps: StepsFolder, option: str
) -> None:
    """Who is called tidelog_reader and can log in, or may do everything, gets nothing by that name."""
    url = await alone.create()
    sql = await connect_sql(url)
    await sql.execute(f"create role tidelog_reader {option}")
    said = (await asyncio.to_thread(migrate, url, note_steps.path)).stderr
    assert "the role tidelog_reader can log in or is a superuser: it is left as it is" in said
    assert await rights_of(sql, "tidelog_reader") == {}
    assert (await rights_of(sql, "tidelog_writer"))["note"] == "delete insert select update"
    await sql.close()


async def test_a_database_that_was_restored_without_its_rights_gets_them(
    alone: Databases, note_steps: StepsFolder, tmp_path: Path
) -> None:
    """By the next migration; and nobody has the right to log as the owner does."""
    url, restored = await alone.create(), await alone.create()
    await asyncio.to_thread(migrate, url, note_steps.path)
    await run("pg_dump", "--format=custom", f"--file={tmp_path}/dump", url)
    await run("pg_restore", "--exit-on-error", "--no-owner", "--no-acl", f"--dbname={restored}", f"{tmp_path}/dump")
    sql = await connect_sql(restored)
    assert await sql.fetchval(MAY_LOG)
    await asyncio.to_thread(migrate, restored, note_steps.path)
    assert not await sql.fetchval(MAY_LOG)
    assert await sql.fetchval("select has_column_privilege('public', 'streams.event', 'data', 'insert')")
    assert (await rights_of(sql, "tidelog_server"))["commit"] == "delete insert select"
    assert (await rights_of(sql, "tidelog_reader"))["note_history"] == "select"
    assert await sql.fetchval(SCHEMAS_OWNER) == "tidelog_owner"
    await sql.close()


async def test_a_table_in_use_is_not_waited_for_long(url: str, sql: Any, note_steps: StepsFolder) -> None:
    """What is not yet the owner's stays as it is, and the next migration hands it over."""
    await sql.execute("alter table streams.note owner to current_user")
    async with sql.transaction():
        await sql.execute(WRITE, "b")
        said = (await asyncio.to_thread(migrate, url, note_steps.path)).stderr
        assert "not all of the schema streams is tidelog_owner's yet" in said
    await asyncio.to_thread(migrate, url, note_steps.path)
    owner = "select relowner::regrole::text from pg_class where oid = 'streams.note'::regclass"
    assert await sql.fetchval(owner) == "tidelog_owner"
