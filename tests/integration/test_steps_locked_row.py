"""Steps that wait for a row that somebody has locked: they give up in time, and keep no connection from other steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from tests.conftest import StartServer
from tests.harness import StepsFolder, eventually
from tests.integration.step_fixtures import StepTemplate, open_steps, step, together

OK = {"status": 200, "body": "ok"}
POOL_SIZE = 4
SHARE = 2  # of one step, by half
STEP = """
config = {{"type": "api", "name": "{name}", "method": "POST", "path": "/{name}"}}

async def handler(req, context):
    await context.streams.chatMessage.set("general", "{name}", {{}})
    return {{"status": 200}}
"""
LOCK = "lock streams.chat_message in share mode; lock orders; select pg_advisory_lock(36, 36)"

Use = Callable[[Any], Awaitable[Any]]


async def by_stream(context: Any) -> None:
    await context.streams.chatMessage.set("general", "1", {"text": "hi"})


async def by_session(context: Any) -> None:
    await context.db.execute(text("select from orders for update"))


async def by_advisory_lock(context: Any) -> None:
    await context.db.execute(text("select pg_advisory_xact_lock(36, 36)"))


def stuck(use: Use, **parts: Any) -> Any:
    async def handler(req: dict[str, Any], context: Any) -> Any:
        await use(context)
        return OK

    return step(handler, name="Stuck", path="/stuck", **parts)


async def free(req: dict[str, Any], context: Any) -> Any:
    await context.db.execute(text("select 1"))
    return OK


@asynccontextmanager
async def locked(url: str, sql: str = LOCK) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A program that has locked what the steps here want, to the end of its transaction."""
    connection = await asyncpg.connect(url)
    await connection.execute("begin;" + sql)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize("use", [by_stream, by_session, by_advisory_lock])
@pytest.mark.parametrize("transaction", [True, False])
async def test_a_step_that_waits_for_a_lock_leaves_connections_to_the_others(
    step_template: StepTemplate, use: Use, transaction: bool
) -> None:
    """However many ask for what is locked, and in whatever way; they are served when it is free."""
    async with (
        open_steps(step_template, pool_size_max=POOL_SIZE, step_pool_share=SHARE / POOL_SIZE) as floor,
        floor.client(stuck(use, transaction=transaction), step(free)) as client,
    ):
        async with locked(floor.url):
            waiting = asyncio.create_task(together(client, ["/stuck"] * 3 * POOL_SIZE))
            await eventually(lambda: floor.connections_out() == SHARE)
            assert await together(client, ["/run"] * POOL_SIZE) == [200] * POOL_SIZE
            assert floor.connections_out() == SHARE
        assert await waiting == [200] * 3 * POOL_SIZE
        assert floor.connections_out() == 0


@pytest.mark.parametrize("use", [by_stream, by_session, by_advisory_lock])
async def test_a_lock_is_not_waited_for_for_ever(step_template: StepTemplate, use: Use) -> None:
    """503 with the code of a conflict, for who waits for a connection of the step's, too; a step may say otherwise."""

    async def is_patient(context: Any) -> None:
        await context.db.execute(text("set local lock_timeout = 0"))
        await use(context)

    steps = stuck(use), step(stuck(is_patient).handler, name="Patient", path="/patient")
    async with (
        open_steps(
            step_template, pool_size_max=POOL_SIZE, step_pool_share=SHARE / POOL_SIZE, step_lock_timeout_seconds=0.05
        ) as floor,
        floor.client(*steps) as client,
    ):
        async with locked(floor.url):
            patient = asyncio.create_task(client.post("/patient"))
            answers = await asyncio.gather(*(client.post("/stuck") for _ in range(2 * SHARE)))
        assert [(one.status_code, one.json()["error"]["code"]) for one in answers] == [
            (503, "transaction_conflict")
        ] * 2 * SHARE
        assert (await patient).status_code == 200
        for _ in range(2 * SHARE):  # one after the other: 50 ms are the limit of these, too
            assert (await client.post("/stuck")).status_code == 200


async def test_who_waits_for_the_steps_other_runs_is_told_so(step_template: StepTemplate) -> None:
    """Not that the database is away: by a code of its own, also from within a group of tasks."""

    async def in_a_group(context: Any) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(by_stream(context))

    async with (
        open_steps(
            step_template, pool_size_max=POOL_SIZE, step_pool_share=SHARE / POOL_SIZE, pool_timeout_seconds=0.05
        ) as floor,
        floor.client(stuck(in_a_group)) as client,
    ):
        async with locked(floor.url):
            waiting = asyncio.create_task(together(client, ["/stuck"] * SHARE))
            await eventually(lambda: floor.connections_out() == SHARE)
            answer = await client.post("/stuck")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "step_busy")
            assert answer.headers["retry-after"]
        assert await waiting == [200] * SHARE
        assert await together(client, ["/stuck"] * SHARE) == [200] * SHARE


async def test_who_goes_away_while_waiting_takes_nothing_with_them(step_template: StepTemplate) -> None:
    """Of what they would have got the next ones are served."""
    async with (
        open_steps(step_template, pool_size_max=POOL_SIZE, step_pool_share=SHARE / POOL_SIZE) as floor,
        floor.client(stuck(by_stream)) as client,
    ):
        async with locked(floor.url):
            waiting = [asyncio.create_task(client.post("/stuck")) for _ in range(3 * POOL_SIZE)]
            await eventually(lambda: floor.connections_out() == SHARE)
            for task in waiting[::2]:
                task.cancel()
        for task in waiting[1::4]:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert floor.connections_out() == 0
        assert await together(client, ["/stuck"] * POOL_SIZE) == [200] * POOL_SIZE


async def test_a_full_pool_does_not_take_the_sockets_out_of_the_balancer(
    database_url: str, start_server: StartServer, steps: StepsFolder
) -> None:
    """Readiness names it, apart from the database, and is ready: subscribers need none of it."""
    steps.write(
        "chat_stream.py",
        "config = {'name': 'chatMessage', 'schema': {'type': 'object'}, 'baseConfig': {'storageType': 'default'}}",
    )
    for name in "stuck", "other":
        steps.write(f"{name}_step.py", STEP.format(name=name))
    settings = {"TIDELOG_POOL_SIZE_MAX": "2", "TIDELOG_STEP_LOCK_TIMEOUT_SECONDS": "0"}
    server = await start_server(steps.path, TIDELOG_POOL_TIMEOUT_SECONDS="0.1", **settings)
    async with server.http() as http, locked(database_url, "lock streams.chat_message in share mode") as lock:
        waiting = [asyncio.create_task(http.post("/stuck")) for _ in range(2)]

        async def are_waiting() -> bool:
            waiting = "select count(*) from pg_locks where not granted and relation = 'streams.chat_message'::regclass"
            return bool(await lock.fetchval(waiting) == 2)

        await eventually(are_waiting)
        assert (await http.post("/stuck")).json()["error"]["code"] == "step_busy"
        assert (await http.post("/other")).json()["error"]["code"] == "database_unavailable"
        ready = await http.get("/health/ready")
        assert (ready.status_code, ready.json()["checks"]["database"]) == (200, "ok")
        assert "pool" in ready.json()["warnings"]
        await lock.execute("rollback")
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]
        assert "warnings" not in (await http.get("/health/ready")).json()
