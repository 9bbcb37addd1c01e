"""Steps come back by themselves: a connection that is no good is replaced, and a step is told to come back at worst."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from tests.integration.step_fixtures import StepKit, StepTemplate, holding, open_steps, step, together
from tidelog.model.step import Step

OK = {"status": 200, "body": "ok"}
POOL_SIZE = 3


@pytest.fixture
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template, pool_size_max=POOL_SIZE) as kit:
        yield kit


async def read(context: Any) -> None:
    await context.streams.chatMessage.get("general", "1")


async def write(context: Any) -> None:
    await context.streams.chatMessage.set("general", "1", {"text": "hi"})


async def write_by_sql(context: Any) -> None:
    await context.db.execute(text("insert into orders values (gen_random_uuid()::text)"))


async def write_one_of_its_own(context: Any) -> None:
    """Which waits for no other step's."""
    await context.streams.chatMessage.set("general", secrets.token_hex(4), {"text": "hi"})


async def write_by_sql_to_the_stream(context: Any) -> None:
    sql = "insert into streams.chat_message (group_id, id, data) values ('general', gen_random_uuid()::text, '{}')"
    await context.db.execute(text(sql))


def calling(use: Any, **parts: Any) -> Step:
    async def handler(req: dict[str, Any], context: Any) -> Any:
        await use(context)
        return OK

    return step(handler, **parts)


async def take_no_writes(kit: StepKit) -> None:
    """What a server looks like that was demoted: sessions of now can't write, as long as they live."""
    await kit.query(f'alter database "{make_url(kit.url).database}" set default_transaction_read_only = on')
    await kit.query(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()"
    )


async def take_writes_again(kit: StepKit) -> None:
    connection = await kit.database.connect(default_transaction_read_only="off")
    await connection.execute(f'alter database "{make_url(kit.url).database}" reset default_transaction_read_only')
    await connection.close()


def is_told_to_come_back(answer: httpx.Response) -> bool:
    told = answer.status_code, answer.headers.get("retry-after")
    return told == (503, "5") and answer.json()["error"]["code"] == "database_unavailable"


@pytest.mark.parametrize("transaction", [True, False])
async def test_steps_write_again_as_soon_as_the_server_does(kit: StepKit, transaction: bool) -> None:
    """Pooled connections that can't write don't outlive the first write; it succeeds, if it was the first statement."""
    steps = (
        step(holding(POOL_SIZE, read), path="/read", name="Read"),
        calling(write, path="/write", name="Write", transaction=transaction),
        calling(write_by_sql, path="/sql", name="Sql", transaction=transaction),
    )
    async with kit.client(*steps) as client:
        await take_no_writes(kit)
        assert await together(client, ["/read"] * POOL_SIZE) == [200] * POOL_SIZE
        for path in ("/write", "/sql"):
            assert is_told_to_come_back(await client.post(path))
        assert await together(client, ["/read"] * POOL_SIZE) == [200] * POOL_SIZE
        await take_writes_again(kit)
        assert [(await client.post(path)).status_code for path in ("/write", "/sql")] == [200, 200]
    assert kit.connections_out() == 0


async def test_a_step_that_cannot_be_asked_again_is_told_to_come_back_once(kit: StepKit) -> None:
    """It has read something, or writes by SQL: one 503, and all others of the pool are looked at before they serve."""

    async def read_and_write(context: Any) -> None:
        await read(context)
        await write(context)

    for use in (read_and_write, write_by_sql):
        await take_no_writes(kit)
        steps = (
            step(holding(POOL_SIZE, read), path="/read", name="Read"),
            calling(use, path="/write", name="Write"),
        )
        async with kit.client(*steps) as client:
            assert await together(client, ["/read"] * POOL_SIZE) == [200] * POOL_SIZE
            await take_writes_again(kit)
            assert is_told_to_come_back(await client.post("/write"))
            assert await together(client, ["/write"] * 2 * POOL_SIZE) == [200] * 2 * POOL_SIZE


async def test_with_retries_such_a_step_is_run_again(kit: StepKit) -> None:
    """As after a deadlock: everything was rolled back."""
    await take_no_writes(kit)
    steps = calling(read, path="/read", name="Read"), calling(write_by_sql, path="/write", name="Write", retries=1)
    async with kit.client(*steps) as client:
        assert (await client.post("/read")).status_code == 200
        await take_writes_again(kit)
        assert (await client.post("/write")).status_code == 200
    assert len(await kit.query("select id from orders")) == 1


async def test_readiness_says_that_steps_cannot_write(kit: StepKit) -> None:
    """And that they can again, though no step has looked; the connections that couldn't are gone by then."""
    async with kit.client(step(holding(POOL_SIZE, read))) as client:
        assert await kit.database.trouble() is None
        await take_no_writes(kit)
        assert await together(client, ["/run"] * POOL_SIZE) == [200] * POOL_SIZE
        assert "takes no writes" in (await kit.database.trouble() or "")
        await take_writes_again(kit)
        assert await together(client, ["/run"] * POOL_SIZE) == [200] * POOL_SIZE
        assert await kit.database.trouble() is None
        assert await kit.database.trouble() is None
    assert kit.connections_out() == 0


async def test_readiness_tells_a_full_pool_from_a_lost_database(step_template: StepTemplate) -> None:
    """While all connections are at work the database is well; the pool is in trouble when steps are refused for it."""
    troubles: list[tuple[str | None, str | None]] = []

    async def look() -> None:
        troubles.append((await kit.database.trouble(), kit.database.pool.trouble))

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await read(context)
        await look()
        assert is_told_to_come_back(await client.post("/late"))
        await look()
        return OK

    steps = step(handler), calling(read, path="/late", name="Late")
    async with (
        open_steps(step_template, pool_size_max=1, pool_timeout_seconds=0.05) as kit,
        kit.client(*steps) as client,
    ):
        assert (await client.post("/run")).status_code == 200
        await look()
    assert [database for database, _ in troubles] == [None] * 3
    assert [pool is None for _, pool in troubles] == [True, False, True]


CHANGES = {
    "a column was added": ("select * from mine", ["alter table mine add more int"]),
    "a column's type was changed": ("select * from mine", ["alter table mine alter n type bigint"]),
    "an enum was made again": (
        "select mood from mine",
        [
            "alter table mine drop mood",
            "drop type mood",
            "create type mood as enum ('a', 'b')",
            "alter table mine add mood mood default 'b'",
        ],
    ),
    "a domain was made again": (
        "select size from mine",
        [
            "alter table mine drop size",
            "drop domain size",
            "create domain size as int",
            "alter table mine add size size",
        ],
    ),
    "a parameter's type was made again": (
        "select count(*) from mine where mood = cast(:mood as mood)",
        [
            "alter table mine drop mood",
            "drop type mood",
            "create type mood as enum ('a', 'b')",
            "alter table mine add mood mood default 'b'",
        ],
    ),
    "a composite type got an attribute": ("select place from mine", ["alter type place add attribute z int"]),
}


@pytest.mark.parametrize("transaction", [True, False])
@pytest.mark.parametrize("change", CHANGES)
async def test_a_step_after_a_change_of_tables_or_types_is_503_at_worst(
    kit: StepKit, change: str, transaction: bool
) -> None:
    """One that finds out, and then the pool remembers nothing that isn't so any more. With retries it is none."""
    sql, changes = CHANGES[change]
    for made in (
        "create type mood as enum ('a')",
        "create domain size as int",
        "create type place as (x int, y int)",
        "create table mine (n int, mood mood default 'a', size size, place place)",
        "insert into mine values (1, 'a', 1, row(1, 2))",
    ):
        await kit.query(made)

    async def use(context: Any) -> None:
        await context.db.execute(text(sql), {"mood": "a"} if ":mood" in sql else {})

    steps = (
        step(holding(POOL_SIZE, use), transaction=transaction),
        calling(use, path="/one", name="One", transaction=transaction),
    )
    async with kit.client(*steps) as client:
        assert await together(client, ["/run"] * POOL_SIZE) == [200] * POOL_SIZE
        for made in changes:
            await kit.query(made)
        answer = await client.post("/one")
        if not transaction and "commit_unknown" in answer.text:  # the driver failed on what the database had answered
            assert change == "a composite type got an attribute"
        else:
            assert answer.status_code == 200 or is_told_to_come_back(answer)
        assert await together(client, ["/run"] * POOL_SIZE) == [200] * POOL_SIZE


@pytest.mark.parametrize("transaction", [True, False])
@pytest.mark.parametrize(
    ("type", "use"),
    [("varchar(1000)", write), ("varchar(1000)", write_by_sql_to_the_stream), ('text collate "C"', write)],
)
async def test_writes_go_on_after_a_streams_table_was_altered(
    kit: StepKit, type: str, use: Any, transaction: bool
) -> None:
    """Its trigger's plans don't fit any more: sessions that have them end, and don't fail for good."""
    steps = (
        step(holding(POOL_SIZE, use if use is not write else write_one_of_its_own), transaction=transaction),
        calling(use, path="/one", name="One", transaction=transaction),
    )
    async with kit.client(*steps) as client:
        for _ in range(8):  # from the sixth on a session may keep a generic plan
            assert await together(client, ["/run"] * POOL_SIZE) == [200] * POOL_SIZE
        await kit.query(f"alter table streams.chat_message alter id type {type}")
        answer = await client.post("/one")
        assert answer.status_code == 200 or is_told_to_come_back(answer)
        assert await together(client, ["/run"] * POOL_SIZE) == [200] * POOL_SIZE


async def test_a_type_that_does_not_fit_is_no_outdated_plan(kit: StepKit) -> None:
    """It is of the same SQLSTATE, and the author's mistake: 500, and his connection stays."""

    async def mistaken(context: Any) -> None:
        await context.db.execute(text("select 1 where 5"))

    async with kit.client(calling(mistaken)) as client:
        assert (await client.post("/run")).status_code == 500
    assert kit.database.pool.open_count == 1


@pytest.mark.parametrize("sql", ["deallocate all", "discard all"])
async def test_statements_that_sql_took_away_are_missed_by_nobody(step_template: StepTemplate, sql: str) -> None:
    """A step deallocates what the driver has prepared in its session; the next one on it doesn't notice."""

    async def take_away(context: Any) -> None:
        await context.db.execute(text(sql))

    steps = calling(write, path="/write", name="Write"), calling(take_away, transaction=False)
    async with open_steps(step_template, pool_size_max=1) as kit, kit.client(*steps) as client:
        assert [(await client.post(path)).status_code for path in ("/write", "/run", "/write")] == [200] * 3


async def test_a_swallowed_error_of_the_connection_is_503(kit: StepKit) -> None:
    """The handler made light of it, but its transaction is lost, by no fault of its own."""

    async def swallow(context: Any) -> None:
        with suppress(DBAPIError):
            await write_by_sql(context)

    await take_no_writes(kit)
    async with kit.client(calling(swallow)) as client:
        assert is_told_to_come_back(await client.post("/run"))


async def test_nothing_is_written_outside_of_a_transaction_that_was_lost(kit: StepKit) -> None:
    """SQLAlchemy would go on with a new connection, and commit there, when the first was lost in a block of its own."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        with suppress(DBAPIError):
            async with context.db.begin():
                await context.db.execute(text("select pg_terminate_backend(pg_backend_pid())"))
        await write_by_sql(context)
        return OK

    async with kit.client(step(handler)) as client:
        assert is_told_to_come_back(await client.post("/run"))
    assert await kit.query("select id from orders") == []


async def test_an_error_of_the_statement_closes_no_connection(kit: StepKit, caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of a step, however often, leaves the pool as it is."""

    async def fail(context: Any) -> None:
        await context.db.execute(text("select 1/0"))

    caplog.set_level(logging.INFO, "tidelog.store")
    async with kit.client(calling(fail)) as client:
        pids = set()
        for _ in range(3):
            assert (await client.post("/run")).status_code == 500
            pids |= set(
                await kit.query(
                    "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
                )
            )
    assert len(pids) == 1
