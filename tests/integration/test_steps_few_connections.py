"""A server with little room: steps share what they could open, and leave room for others."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from tests.harness import RUN, eventually
from tests.integration.step_fixtures import StepKit, StepTemplate, holding, open_steps, step, together
from tidelog.store.capacity import short_of, warn_if_short
from tidelog.store.engine import Database

OK = {"status": 200, "body": "ok"}
ROLE = f"tidelog_few_{RUN}"
LIMIT = 4


@asynccontextmanager
async def few(
    template: StepTemplate, *, pool_size_max: int = 12, pool_idle_seconds: float = 60
) -> AsyncIterator[StepKit]:
    """A kit whose steps have a role with room for LIMIT connections."""
    async with open_steps(template) as kit:
        await kit.query(f"create role {ROLE} login connection limit {LIMIT}")
        try:
            await kit.query(f"grant pg_read_all_data, pg_write_all_data to {ROLE}")
            url = make_url(kit.url).set(username=ROLE).render_as_string(hide_password=False)
            own = Database(pool_size_max=pool_size_max, pool_timeout_seconds=60, pool_idle_seconds=pool_idle_seconds)
            await own.open(url)
            try:
                yield StepKit(url, own, kit.settings)
            finally:
                await own.close()
        finally:
            await kit.query(f"drop owned by {ROLE}")
            await kit.query(f"drop role {ROLE}")


async def write(context: Any) -> None:
    await context.streams.chatMessage.set(
        "general", secrets.token_hex(8), {"text": "hi"}
    )  # no row that others wait for


async def test_steps_queue_for_the_connections_that_are_open(
    step_template: StepTemplate, caplog: pytest.LogCaptureFixture
) -> None:
    """More steps at once than the role may have connections: each is served, some a little later. The log says why."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await write(context)
        await asyncio.sleep(0.05)  # work, while others wait
        return OK

    async with few(step_template) as kit, kit.client(step(handler)) as client:
        assert await together(client, ["/run"] * 20) == [200] * 20
        assert kit.database.pool.open_count <= LIMIT
        assert kit.connections_out() == 0
    assert caplog.text.count("no room for more connections") == 1


async def test_steps_without_a_transaction_queue_too(step_template: StepTemplate) -> None:
    """Each of their operations takes a connection for itself."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        for _ in range(3):
            await write(context)
        return OK

    async with few(step_template) as kit, kit.client(step(handler, transaction=False)) as client:
        assert await together(client, ["/run"] * 20) == [200] * 20


async def test_when_others_have_all_connections_steps_are_told_to_come_back(step_template: StepTemplate) -> None:
    """There is none to wait for; and the next step after they are gone is served."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await write(context)
        return OK

    async with few(step_template) as kit, kit.client(step(handler)) as client:
        others = [await asyncpg.connect(kit.url) for _ in range(LIMIT)]
        assert await together(client, ["/run"] * 8) == [503] * 8
        assert "too many connections" in (await kit.database.trouble() or "")
        for other in others:
            await other.close()
        await eventually(lambda: client_is_served(client))


async def client_is_served(client: Any) -> bool:
    return bool((await client.post("/run")).status_code == 200)


async def test_subscribers_get_a_connection_though_steps_keep_all_busy(step_template: StepTemplate) -> None:
    """Steps do with one less while the feed needs it: a snapshot is read in the middle of their work."""
    is_read = asyncio.Event()

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await write(context)
        return OK

    async def keep_busy(client: Any) -> None:
        while not is_read.is_set():
            assert (await client.post("/run")).status_code == 200

    async with few(step_template) as kit, kit.client(step(handler)) as client, asyncio.TaskGroup() as tasks:
        assert await together(client, ["/run"] * 2 * LIMIT) == [200] * 2 * LIMIT
        assert kit.database.pool.open_count == LIMIT
        for _ in range(2 * LIMIT):
            tasks.create_task(keep_busy(client))

        async def is_served() -> bool:
            try:
                async with kit.database.archive_pool.acquire() as connection:
                    return bool(await connection.fetchval("select true"))
            except asyncpg.TooManyConnectionsError:
                return False

        try:
            await eventually(is_served)
        finally:
            is_read.set()


async def test_what_is_idle_is_given_back(step_template: StepTemplate) -> None:
    """After a burst others can have the connections; one stays, for the next step."""
    async with (
        few(step_template, pool_idle_seconds=0.1) as kit,
        kit.client(step(holding(LIMIT, write))) as client,
    ):
        assert await together(client, ["/run"] * LIMIT) == [200] * LIMIT
        await eventually(lambda: kit.database.pool.open_count == 1)
        others = [await asyncpg.connect(kit.url) for _ in range(LIMIT - 1)]
        for other in others:
            await other.close()
        assert await together(client, ["/run"] * LIMIT) == [200] * LIMIT


async def test_a_step_that_gives_up_waiting_takes_nothing_with_it(step_template: StepTemplate) -> None:
    """Clients that go away while their steps wait for a connection: those that stay are served by all of them."""
    begun, free = asyncio.Barrier(3), asyncio.Event()

    async def holder(req: dict[str, Any], context: Any) -> Any:
        await write(context)
        await begun.wait()
        await free.wait()
        return OK

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await write(context)
        return OK

    steps = step(holder, path="/hold", name="Hold"), step(handler)
    async with open_steps(step_template, pool_size_max=2) as kit, kit.client(*steps) as client:
        holding = [asyncio.create_task(client.post("/hold")) for _ in range(2)]
        await begun.wait()
        waiting = [asyncio.create_task(client.post("/run")) for _ in range(12)]
        await asyncio.sleep(0)
        for task in waiting[::2]:
            task.cancel()
        free.set()
        for task in waiting[1::4]:
            task.cancel()
        answers = await asyncio.gather(*holding, *waiting, return_exceptions=True)
        statuses = [getattr(answer, "status_code", 0) for answer in answers]
        assert set(statuses[:2]) == {200} and set(statuses[2:]) == {0, 200}
        assert kit.connections_out() == 0
        assert await together(client, ["/run"] * 4) == [200] * 4


async def test_the_start_warns_of_what_does_not_fit(
    step_template: StepTemplate, caplog: pytest.LogCaptureFixture
) -> None:
    """The pool and the feed of all processes, beside what role, database and server allow; it names the setting."""
    async with few(step_template) as kit:
        connection = await asyncpg.connect(kit.url)
        (role,) = [line for line in await short_of(connection, 27) if "role" in line]
        assert ROLE in role and str(LIMIT) in role
        assert await short_of(connection, LIMIT) == []
        maximum = int(await connection.fetchval("select current_setting('max_connections')"))
        assert any("max_connections" in line for line in await short_of(connection, maximum))
        await connection.close()
        await warn_if_short(kit.database.connect, pool_size_max=20, workers=2)
        assert ROLE in caplog.text and "TIDELOG_POOL_SIZE_MAX" in caplog.text and "may want 66" in caplog.text


async def test_the_start_warns_of_the_databases_limit(step_template: StepTemplate) -> None:
    """Superusers are not bound by it."""
    async with few(step_template) as kit, open_steps(step_template) as as_superuser:
        name = make_url(kit.url).database
        connection = await asyncpg.connect(kit.url)
        owner = await asyncpg.connect(
            make_url(as_superuser.url).set(database=name).render_as_string(hide_password=False)
        )
        await owner.execute(f'alter database "{name}" connection limit 3')
        assert any("database" in line and "3" in line for line in await short_of(connection, 4))
        assert await short_of(owner, 4) == []
        for it in (connection, owner):
            await it.close()
