"""What a step's SQL leaves in its session reaches nobody: not the next caller, and nobody who waits for its locks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from tests.harness import RUN, eventually
from tests.integration.step_fixtures import StepKit, StepTemplate, open_steps, step
from tidelog.store.driver import DriverConnection
from tidelog.store.engine import Database

OK = {"status": 200, "body": "ok"}
HELD = """
    select count(*) from pg_locks
    where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())
"""
# What a step says, and what the next one on the same connection asks, with the answer of a new session.
LEFT = {
    "a variable": ("select set_config('app.tenant', 'acme', false)", "select current_setting('app.tenant', true)", ""),
    "a setting": ("set work_mem = '77MB'", "select current_setting('work_mem') = '77MB'", False),
    "a search path": ("set search_path = streams", "select current_schema()", "public"),
    "a lock": ("select pg_advisory_lock(9, 9)", HELD, 0),
    "a channel": ("listen gossip", "select count(*) from pg_listening_channels()", 0),
    "a temporary table": ("create temporary table notes as select 1", "select to_regclass('notes')::text", None),
    "a prepared statement": (
        "prepare mine as select 1",
        "select count(*) from pg_prepared_statements where from_sql",
        0,
    ),
    "a cursor": (
        "declare mine cursor with hold for select 1",
        "select count(*) from pg_cursors where name = 'mine'",
        0,
    ),
    "a role": ("set role pg_monitor", "select current_user = session_user", True),
    "an isolation level": (
        "set session characteristics as transaction isolation level serializable",
        "select current_setting('default_transaction_isolation')",
        "read committed",
    ),
}


@pytest.fixture
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template, pool_size_max=1) as kit:
        yield kit


async def backend(context: Any) -> int:
    pid: int = (await context.db.execute(text("select pg_backend_pid()"))).scalar_one()
    return pid


@pytest.mark.parametrize("transaction", [True, False])
@pytest.mark.parametrize("left", LEFT)
async def test_the_next_caller_finds_the_session_as_it_was_opened(kit: StepKit, left: str, transaction: bool) -> None:
    """Whatever a step set, locked, made or listened to is gone, and its connection is used on."""
    leave, look, expected = LEFT[left]
    pids, found = [], []

    async def first(req: dict[str, Any], context: Any) -> Any:
        pids.append(await backend(context))
        await context.db.execute(text(leave))
        return OK

    async def second(req: dict[str, Any], context: Any) -> Any:
        pids.append(await backend(context))
        found.append((await context.db.execute(text(look))).scalar_one())
        return OK

    steps = step(first, transaction=transaction), step(second, path="/second", name="Second")
    async with kit.client(*steps) as client:
        assert [(await client.post(path)).status_code for path in ("/run", "/second")] == [200, 200]
    assert found == [expected]
    assert pids[0] == pids[1]


@pytest.mark.parametrize("end", ["returned", "failed", "was cancelled"])
async def test_locks_are_free_when_the_step_has_ended(kit: StepKit, end: str) -> None:
    """However it ended, and though nobody uses its connection next."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.db.execute(text("select pg_advisory_lock(9, 9)"))
        if end == "failed":
            raise ValueError
        if end == "was cancelled":
            raise asyncio.CancelledError
        return OK

    await kit.post(handler)
    assert await kit.query(HELD) == [0]


async def test_a_listener_on_the_drivers_connection_hears_nothing_of_later_steps(kit: StepKit) -> None:
    """Also what the driver keeps for itself is gone."""
    heard: list[Any] = []

    async def listen(req: dict[str, Any], context: Any) -> Any:
        raw = await (await context.db.connection()).get_raw_connection()
        await raw.driver_connection.add_listener("gossip", lambda *said: heard.append(said))
        return OK

    async def speak(req: dict[str, Any], context: Any) -> Any:
        await context.db.execute(text("listen gossip"))
        await context.db.execute(text("notify gossip"))
        return OK

    async with kit.client(step(listen), step(speak, path="/speak", name="Speak")) as client:
        assert [(await client.post(path)).status_code for path in ("/run", "/speak", "/speak")] == [200] * 3
    assert heard == []


async def test_a_session_that_cannot_be_cleaned_is_closed(kit: StepKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is committed, so it answers as ever, and the next one has another connection."""
    monkeypatch.setattr(DriverConnection, "get_reset_query", lambda _: "select 1/0")
    pids = []

    async def first(req: dict[str, Any], context: Any) -> Any:
        pids.append(await backend(context))
        await context.db.execute(text("insert into orders values ('o1')"))
        return OK

    async def second(req: dict[str, Any], context: Any) -> Any:
        pids.append(await backend(context))
        return OK

    async with kit.client(step(first), step(second, path="/second", name="Second")) as client:
        assert [(await client.post(path)).status_code for path in ("/run", "/second")] == [200, 200]
    assert await kit.query("select id from orders") == ["o1"]
    assert pids[0] != pids[1]
    assert kit.connections_out() == 0


async def test_the_settings_of_the_connection_outlive_the_cleaning(kit: StepKit) -> None:
    """Those that we open it with, and those that the server gives to the role and the database."""
    role = f"tidelog_role_{RUN}"
    name = make_url(kit.url).database
    await kit.query(f"create role {role} login superuser")
    try:
        await kit.query(f"alter role {role} in database \"{name}\" set role = 'pg_monitor'")
        await kit.query(f"alter role {role} in database \"{name}\" set work_mem = '77MB'")
        own = Database(pool_size_max=1, pool_timeout_seconds=60)
        url = make_url(kit.url).set(username=role)
        await own.open(url.render_as_string(hide_password=False))
        found = []

        async def handler(req: dict[str, Any], context: Any) -> Any:
            asked = "select current_user::text, current_setting('work_mem'), current_setting('jit')"
            found.append(tuple((await context.db.execute(text(asked))).one()))
            await context.db.execute(text("reset role"))
            return OK

        async with kit.client(step(handler), database=own) as client:
            assert [(await client.post("/run")).status_code for _ in range(2)] == [200, 200]
        await own.close()
        assert found == [("pg_monitor", "77MB", "off")] * 2
    finally:
        await kit.query(f"drop role {role}")


async def test_a_step_that_only_uses_streams_is_not_cleaned_up_after(kit: StepKit) -> None:
    """It can leave nothing; a round trip would be a third of what it costs."""
    said: list[str] = []

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        return OK

    await kit.post(handler)
    lent = await kit.database.pool.check_out()
    lent.driver.add_query_logger(lambda record: said.append(record.query))
    await kit.database.pool.check_in(lent)
    await kit.post(handler)
    await eventually(lambda: "COMMIT" in said)  # the driver tells a moment later
    assert [sql.split()[0] for sql in said] == ["BEGIN;", "insert", "COMMIT"]  # and who writes, in the same message


async def test_a_cleaned_session_keeps_what_the_driver_has_prepared(kit: StepKit) -> None:
    """Statements of streams are not prepared anew because a step used SQL."""
    prepared: list[Any] = []

    async def write(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        return OK

    async def look(req: dict[str, Any], context: Any) -> Any:
        sql = "select prepare_time from pg_prepared_statements where statement like 'insert into streams.%'"
        prepared.append((await context.db.execute(text(sql))).scalar_one())
        return OK

    async with kit.client(step(write), step(look, path="/look", name="Look")) as client:
        for path in ("/run", "/look", "/run", "/look"):
            assert (await client.post(path)).status_code == 200
    assert len(set(prepared)) == 1


async def test_a_session_that_is_given_back_early_is_clean(kit: StepKit) -> None:
    """A step without a transaction gives its session back at each commit of its own."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.db.execute(text("select pg_advisory_lock(9, 9)"))
        await context.db.commit()
        assert await kit.query(HELD) == [0]
        return OK

    assert (await kit.post(handler, transaction=False)).status_code == 200
