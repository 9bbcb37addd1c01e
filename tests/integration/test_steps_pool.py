"""Connections lent to steps come back: each once, in no transaction, whatever the handler did with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from tests.integration.step_fixtures import StepKit, StepTemplate, open_steps, step

OK = {"status": 200, "body": "ok"}
POOL_SIZE = 2


@pytest.fixture
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template, pool_size_max=POOL_SIZE) as kit:
        yield kit


async def all_can_be_had(kit: StepKit) -> None:
    """As many steps as there are connections hold one each at the same time."""
    together = asyncio.Barrier(POOL_SIZE)

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.get("general", "1")
        await together.wait()
        return OK

    async with kit.client(step(handler)) as client, asyncio.timeout(60):
        answers = await asyncio.gather(*(client.post("/run") for _ in range(POOL_SIZE)))
    assert [answer.status_code for answer in answers] == [200] * POOL_SIZE
    assert kit.connections_out() == 0


async def test_two_sessions_calls_at_once_take_one_connection(kit: StepKit) -> None:
    """In a step without a transaction, where each waits for a connection of a busy pool."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        statements = (context.db.execute(text(f"select {n}")) for n in range(2))
        await asyncio.gather(*statements, return_exceptions=True)  # SQLAlchemy may refuse the second
        return OK

    async with kit.client(step(handler, transaction=False)) as client:
        await asyncio.gather(*(client.post("/run") for _ in range(2 * POOL_SIZE)))
    await all_can_be_had(kit)


async def test_runs_with_a_session_and_a_stream_need_no_second_connection(kit: StepKit) -> None:
    """Each would wait for one that another keeps. What the session stores and what the streams store stays."""
    together = asyncio.Barrier(POOL_SIZE)

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.db.execute(text("insert into orders values (:id)"), {"id": req["body"]})
        await together.wait()
        await context.streams.chatMessage.set("general", req["body"], {"text": "hi"})
        await context.db.execute(text("select 1"))
        context.streams.chatMessage.set("general", "not awaited " + req["body"], {"text": "hi"})
        await context.db.commit()
        return OK

    names = [f"run {n}" for n in range(POOL_SIZE)]
    async with kit.client(step(handler, transaction=False)) as client:
        answers = await asyncio.gather(*(client.post("/run", json=name) for name in names))
    assert [answer.status_code for answer in answers] == [200] * POOL_SIZE
    assert sorted(await kit.query("select id from orders")) == names
    assert sorted(await kit.ids()) == [*(f"not awaited {name}" for name in names), *names]
    await all_can_be_had(kit)


async def test_a_stream_is_not_written_in_a_transaction_of_the_sessions_own(kit: StepKit) -> None:
    """Without a transaction an operation on a stream commits by itself, also if the author began one in SQL."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.db.execute(text("begin"))
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        seen = await kit.ids()
        await context.db.execute(text("rollback"))
        return {"status": 200, "body": seen}

    assert (await kit.post(handler, transaction=False)).json() == ["1"]
    assert await kit.ids() == ["1"]


@pytest.mark.parametrize("transaction", [True, False])
async def test_a_connection_that_a_step_closes_stays_its_own_to_its_end(kit: StepKit, transaction: bool) -> None:
    """SQLAlchemy would give it on, with the transaction that is open in it, to the next one that needs a connection."""
    goes, closed = asyncio.Event(), asyncio.Event()

    async def closes(req: dict[str, Any], context: Any) -> Any:
        connection = await context.db.connection()
        await connection.execute(text("begin" if not transaction else "select 1"))
        await connection.execute(text("insert into orders values ('undone')"))
        await connection.close()
        closed.set()
        await goes.wait()
        await context.db.execute(text("insert into orders values ('undone, too')"))
        raise ValueError

    async def writes(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        return OK

    steps = step(closes, transaction=transaction), step(writes, path="/writes", name="Writes")
    async with kit.client(*steps) as client:
        closing = asyncio.create_task(client.post("/run"))
        await closed.wait()
        assert (await client.post("/writes")).status_code == 200
        goes.set()
        assert (await closing).status_code == 500
    assert (await kit.query("select id from orders"), await kit.ids()) == ([], ["1"])
    assert kit.connections_out() == 0


async def test_a_call_that_outlives_its_step_takes_no_connection(kit: StepKit) -> None:
    """It waits for one when its step ends; what it would get afterwards nobody would give back."""
    busy, free = asyncio.Barrier(POOL_SIZE + 1), asyncio.Event()

    async def holds(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.get("general", "1")
        await busy.wait()
        await free.wait()
        return OK

    async def handler(req: dict[str, Any], context: Any) -> Any:
        async def fail() -> None:
            await asyncio.sleep(0)
            raise ValueError("while the other one waits")

        await asyncio.gather(context.db.execute(text("select 1")), fail())

    steps = step(holds, path="/holds", name="Holds"), step(handler, transaction=False)
    async with kit.client(*steps) as client:
        held = [asyncio.create_task(client.post("/holds")) for _ in range(POOL_SIZE)]
        await busy.wait()
        assert (await client.post("/run")).status_code == 500
        free.set()
        await asyncio.gather(*held)
    await all_can_be_had(kit)


async def test_a_transaction_that_sql_left_open_is_nobody_elses(
    step_template: StepTemplate, caplog: pytest.LogCaptureFixture
) -> None:
    """A BEGIN in a step without a transaction: what follows it is undone, and the next step's write is stored."""

    async def begins(req: dict[str, Any], context: Any) -> Any:
        await context.db.execute(text("begin"))
        await context.db.execute(text("insert into orders values ('o1')"))
        return OK

    async def writes(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        return OK

    async with open_steps(step_template, pool_size_max=1) as kit:
        await kit.post(begins, transaction=False)
        assert "left a transaction open" in caplog.text
        assert (await kit.post(writes, transaction=False)).status_code == 200
        assert await kit.ids() == ["1"]
        assert await kit.query("select id from orders") == []
