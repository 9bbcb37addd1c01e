"""What a role needs: one that migrates, and one that serves what another has migrated."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy.engine import make_url

from tests.acceptance.test_readme import blocks
from tests.consumer_fixtures import numbering
from tests.harness import RUN, Server, Sql, StepsFolder, Subscriber, connect_sql, eventually, free_port, migrate
from tests.migrations.catalog import objects_of
from tests.migrations.test_refusals import serve
from tidelog.consumer import Commit, consume
from tidelog.errors import GrantMissingError, ServerUnfitError
from tidelog.runtime.discovery import discover
from tidelog.store.requirements import check_grants, check_server, is_to_be_migrated

GRANTS, WORK_GRANTS = (text for name, text in blocks("sql", "migrations") if name.endswith("grants.sql"))
NOTE_STEP = """
config = {"type": "api", "name": "AddNote", "method": "POST", "path": "/notes", "emits": []}

async def handler(req, context):
    await context.streams.note.set("g", req["body"]["id"], {"n": 1})
    await context.streams.note.send({"groupId": "g"}, {"type": "added", "data": {}})
    return {"status": 201, "body": {}}
"""
FAIRLY_SOON_SECONDS = 90
SERVE = ["-m", "tidelog.cli", "serve"]


@dataclass
class Role:
    name: str
    url: str
    sql: Sql  # as the owner


@pytest.fixture
async def role(url: str, sql: Sql) -> AsyncIterator[Role]:
    """A role with what the README grants, and nothing else, on a database that is migrated for the stream `note`."""
    name = f"tidelog_test_app_{RUN}"
    await sql.execute(f"create role {name} login password 'x'")
    await sql.execute(
        re.sub(r"\bapp\b", name, GRANTS).replace("streams.job", "streams.note").replace("_job_log", "_note_log")
    )
    yield Role(name, make_url(url).set(username=name, password="x").render_as_string(hide_password=False), sql)
    await sql.execute(f"drop owned by {name}")
    await sql.execute(f"drop role {name}")


async def last_line(url: str, steps: StepsFolder, command: Sequence[str] = SERVE) -> str:
    """What a server that must not start says, in one line."""
    server = Server(url, steps.path, {}, free_port(), command)
    try:
        assert await asyncio.to_thread(server.process.wait, FAIRLY_SOON_SECONDS) == 1, server.log()
    finally:
        await server.stop()
    assert server.log().count("\n") == 1 and server.log().startswith("tidelog: "), server.log()
    return server.log()


async def test_the_listed_grants_serve_a_migrated_database(role: Role, note_steps: StepsFolder) -> None:
    """Steps, events, sockets, numbers and retention, without a right to make or own anything."""
    note_steps.write("add_note_step.py", NOTE_STEP)
    before = await objects_of(role.sql)
    settings = {"TIDELOG_RETENTION_SECONDS": "0.1", "TIDELOG_WORKERS": "2"}
    server = Server(role.url, note_steps.path, settings, free_port(), SERVE)
    try:
        await server.wait_until_ready()
        async with server.http() as http, Subscriber.connect(server) as subscriber:
            view = await subscriber.view("note", "g")
            for id in ("b", "c"):
                assert (await http.post("/notes", json={"id": id})).status_code == 201
            await subscriber.until_mark(role.sql, view)
        assert view.items == {"a": {"id": "a", "n": 1}, "b": {"id": "b", "n": 1}, "c": {"id": "c", "n": 1}}
        assert [kind for kind, _ in view.seen].count("added") == 2
        # The newest commit always stays.
        await eventually(lambda: role.sql.fetchval("select count(*) = 1 from streams.commit"), FAIRLY_SOON_SECONDS)
        assert [record for record in server.records() if record["level"] != "info"] == []
    finally:
        await server.stop()
    assert await objects_of(role.sql) == before


REACTING = {
    "emit_step.py": """
config = {"type": "api", "name": "Emit", "method": "POST", "path": "/emit", "emits": ["made"]}
async def handler(req, context):
    await context.emit({"topic": "made", "data": {}})
    return {"status": 200}
""",
    "event_step.py": """
config = {"type": "event", "name": "Event", "subscribes": ["made"], "emits": [],
          "infrastructure": {"queue": {"maxRetries": 0}}}
async def handler(input, context):
    await context.streams.note.set("g", "event", {"n": 2})
    if await context.streams.note.get("g", "again"):
        raise RuntimeError("parked")
""",
    "stream_step.py": """
config = {"type": "stream", "name": "Stream", "streamName": "note", "itemId": "event"}
async def handler(input, context):
    await context.streams.note.set("g", "stream", {"n": 3})
""",
    "cron_step.py": """
config = {"type": "cron", "name": "Cron", "cron": "* * * * * *"}
async def handler(context):
    await context.streams.note.set("g", "cron", {"n": 4})
""",
}


async def test_the_listed_grants_run_steps_that_react(role: Role, note_steps: StepsFolder) -> None:
    """Events, the clock and changes; one that fails is parked, and may be tried again. Without them, it is told."""
    for name, text in REACTING.items():
        note_steps.write(name, text)

    async def is_there(id: str) -> bool:
        return bool(await role.sql.fetchval("select exists (select from streams.note where id = $1)", id))

    server = Server(role.url, note_steps.path, {}, free_port(), SERVE)
    try:
        await server.wait_until_ready()
        async with server.http() as http:
            assert (await http.post("/emit")).status_code == 500
            assert "work" in (await eventually(lambda: _warnings(http)))
            await role.sql.execute(re.sub(r"\bapp\b", role.name, WORK_GRANTS))
            await eventually(lambda: is_there("cron"), FAIRLY_SOON_SECONDS)
            await eventually(lambda: role.sql.fetchval("select exists (select from streams.consumer)"))
            assert (await http.post("/emit")).status_code == 200
            await eventually(lambda: is_there("stream"), FAIRLY_SOON_SECONDS)
            await role.sql.execute("insert into streams.note (group_id, id, data) values ('g', 'again', '{}')")
            assert (await http.post("/emit")).status_code == 200
            parked = "select count(*) = 1 from streams.step_parked"
            await eventually(lambda: role.sql.fetchval(parked), FAIRLY_SOON_SECONDS)
            connection = await asyncpg.connect(role.url)
            await role.sql.execute("delete from streams.note where id = 'again'")
            assert await connection.fetchval("select streams.retry_parked(step_name => 'Event')") == 1
            assert await connection.fetchval("select streams.drop_parked(step_name => 'Event')") == 0
            await connection.close()
    finally:
        await server.stop()


async def _warnings(http: httpx.AsyncClient) -> dict[str, str]:
    answer: dict[str, Any] = (await http.get("/health/ready")).json()
    warnings: dict[str, str] = answer.get("warnings", {})
    return warnings


class EnoughError(Exception):
    """Ends a consumer."""


async def test_a_consumer_needs_its_own_table_beside(role: Role) -> None:
    """It stores its position: what was handed out before it ended does not come again."""
    await role.sql.execute(f"grant insert, update on streams.consumer to {role.name}")
    seen: list[int] = []

    async def handler(commit: Commit, _connection: object) -> None:
        if len(seen) % 2:
            raise EnoughError
        seen.append(commit.position)

    with numbering(role.url):
        for id in ("b", "c"):
            await role.sql.execute("insert into streams.note (group_id, id, data) values ('g', $1, '{}')", id)
        for _ in range(2):
            with pytest.raises(EnoughError):
                await consume(role.url, "app", handler)
            seen.append(0)
    assert seen == [1, 0, 2, 0]


async def test_each_grant_that_is_missing_is_named(role: Role, note_steps: StepsFolder) -> None:
    """With the statement that grants it. Of the list in the README, each one."""
    streams = tuple(discover(note_steps.path).streams.values())
    connection = await asyncpg.connect(role.url)
    held = await role.sql.fetch(
        "select table_name, lower(privilege_type) as privilege from information_schema.role_table_grants "
        "where grantee = $1 order by 1, 2",
        role.name,
    )
    assert len(held) == 24
    try:
        assert await is_to_be_migrated(connection, streams) is False
        for table, privilege in [("note", "insert"), *held]:
            is_vital = table not in ("note", "context_state") or (table, privilege) == ("note", "select")
            await role.sql.execute(f"revoke {privilege} on streams.{table} from {role.name}")
            if is_vital:
                with pytest.raises(GrantMissingError, match=f"grant {privilege} on streams.{table} to {role.name};"):
                    await is_to_be_migrated(connection, streams)
                with pytest.raises(GrantMissingError):
                    await check_grants(connection, streams)
            else:
                await check_grants(connection, streams)
            await role.sql.execute(f"grant {privilege} on streams.{table} to {role.name}")
    finally:
        await connection.close()
    await role.sql.execute(f"revoke usage on schema streams from {role.name}")
    line = await last_line(role.url, note_steps)
    assert "grant_missing" in line and f"grant usage on schema streams to {role.name};" in line


async def test_a_role_that_may_not_migrate_says_what_is_to_be_done_and_by_whom(
    role: Role, note_steps: StepsFolder
) -> None:
    """A stream without a table; nothing is tried."""
    note_steps.write("task_stream.py", 'config = {"name": "task", "schema": {"type": "object"}}')
    line = await last_line(role.url, note_steps)
    assert "streams_not_migrated" in line and "no table streams.task yet for stream task" in line
    assert "run `scripts/migrate` (installed: `tidelog migrate`) as tidelog_owner or a member of it" in line


async def test_a_schema_that_only_differs_is_served_by_a_role_that_may_not_store_it(
    role: Role, note_steps: StepsFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """Steps check by their own file; a warning says that the stored one is older."""
    note_steps.write("note_stream.py", 'config = {"name": "note", "schema": {"type": "object", "title": "New"}}')
    streams = tuple(discover(note_steps.path).streams.values())
    connection = await asyncpg.connect(role.url)
    assert await is_to_be_migrated(connection, streams) is False
    assert "older schemas of note" in caplog.text
    assert await is_to_be_migrated(role.sql, streams) is True
    await connection.close()


async def test_a_role_without_create_on_the_database_migrates_the_schema_that_it_owns(
    role: Role, note_steps: StepsFolder
) -> None:
    """As it was given by somebody who may."""
    await role.sql.execute("drop schema streams cascade")
    for command in (["-m", "alembic", "upgrade", "head"], SERVE):
        line = await last_line(role.url, note_steps, command)
        assert "create" in line and "database" in line
    await role.sql.execute(f"create schema streams authorization {role.name}")
    await asyncio.to_thread(migrate, role.url, note_steps.path)
    assert await role.sql.fetchval("select to_regclass('streams.note') is not null")


@pytest.mark.parametrize("signature", ["pg_current_wal_lsn()", "pg_walfile_name(pg_lsn)", "pg_control_system()"])
async def test_a_function_that_may_not_be_called_is_named(role: Role, note_steps: StepsFolder, signature: str) -> None:
    """Taken from everybody, it can be granted to the role again."""
    await role.sql.execute(f"revoke execute on function {signature} from public")
    connection = await asyncpg.connect(role.url)
    with pytest.raises(GrantMissingError, match="grant execute on function") as missing:
        await check_server(connection)
    found = re.search(r"`(.*);`", str(missing.value))
    assert found is not None
    await role.sql.execute(found[1])
    await check_server(connection)
    await connection.close()


async def test_a_server_that_refuses_the_functions_is_refused_with_the_reason(
    url: str, sql: Sql, note_steps: StepsFolder
) -> None:
    """As Aurora does, whoever asks: by serve, migrate and a plain server, and nothing is made."""
    await sql.execute("alter function pg_catalog.pg_walfile_name(pg_lsn) rename to pg_walfile_name_of_postgres")
    with pytest.raises(ServerUnfitError, match="does not exist"):
        await check_server(sql)
    await sql.execute(
        "create function pg_catalog.pg_walfile_name(pg_lsn) returns text language plpgsql strict as "
        "$$ begin raise feature_not_supported using message = 'not supported on this service'; end $$"
    )
    with pytest.raises(ServerUnfitError, match="not supported on this service"):
        await check_server(sql)
    for command in (SERVE, ["-m", "alembic", "upgrade", "head"]):
        assert "server_unfit: the server refuses pg_walfile_name" in await last_line(url, note_steps, command)


@pytest.mark.parametrize(
    ("revision", "told"), [("9999", "streams_newer"), ("0002", "are older than this server (revision 0002")]
)
async def test_the_cores_revision_is_the_servers(
    url: str, sql: Sql, role: Role, note_steps: StepsFolder, revision: str, told: str
) -> None:
    """A later one is refused, also by a migration; so is an earlier one where the role may not migrate."""
    await sql.execute("update streams.alembic_version set version_num = $1", revision)
    assert told in await last_line(role.url, note_steps)
    log = await serve(role.url, note_steps.path)
    assert told in log and "Traceback" not in log
    if revision == "9999":
        assert told in await last_line(url, note_steps)
        assert told in await last_line(url, note_steps, ["-m", "alembic", "upgrade", "head"])


async def test_a_migration_that_postgres_refuses_says_so_in_a_line(empty_url: str, note_steps: StepsFolder) -> None:
    """And changes nothing: a database that takes no writes, say."""
    sql = await connect_sql(empty_url)
    await sql.execute(f'alter database "{make_url(empty_url).database}" set default_transaction_read_only = on')
    line = await last_line(empty_url, note_steps, ["-m", "alembic", "upgrade", "head"])
    assert "migration_failed" in line and "read-only" in line
    await sql.close()


async def test_a_time_limit_for_others_statements_ends_no_migration(
    url: str, sql: Sql, note_steps: StepsFolder
) -> None:
    """As roles and databases have it for what is asked by people: an index of a large log takes minutes."""
    note_steps.write("task_stream.py", 'config = {"name": "task", "schema": {"type": "object"}}\n')
    await sql.execute(
        "create function slow() returns event_trigger language plpgsql as 'begin perform pg_sleep(0.2); end'"
    )
    await sql.execute(
        "create event trigger slow on ddl_command_start when tag in ('CREATE TABLE') execute function slow()"
    )
    await sql.execute(f'alter database "{make_url(url).database}" set statement_timeout = 100')
    await asyncio.to_thread(migrate, url, note_steps.path)
    assert await sql.fetchval("select to_regclass('streams.task') is not null")
