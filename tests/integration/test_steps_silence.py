"""A network that loses a connection without a word: no step waits for an answer that can't come any more."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from tests.harness import eventually
from tests.integration.step_fixtures import StepKit, StepTemplate, holding, open_steps, step, together
from tests.proxy import Proxy, target_of, through
from tidelog.store import lent, liveness, pool
from tidelog.store.engine import Database
from tidelog.store.lent import Lent

OK = {"status": 200, "body": "ok"}
POOL_SIZE = 3


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds in earnest."""
    monkeypatch.setattr(lent, "ANSWER_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(pool, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(liveness, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(liveness, "CHECK_TIMEOUT_SECONDS", 0.3)


@asynccontextmanager
async def behind_proxy(template: StepTemplate) -> AsyncIterator[tuple[StepKit, Proxy]]:
    """A kit whose steps reach the database by a network that can go silent."""
    async with open_steps(template) as kit, Proxy(target_of(kit.url)) as proxy:
        own = Database(pool_size_max=POOL_SIZE, pool_timeout_seconds=60)
        await own.open(through(kit.url, proxy))
        try:
            yield StepKit(kit.url, own, kit.settings), proxy
        finally:
            await own.close()


async def read(context: Any) -> None:
    await context.streams.chatMessage.get("general", "1")


@pytest.mark.parametrize("transaction", [True, False])
async def test_connections_that_were_lost_in_the_pool_serve_nobody(
    step_template: StepTemplate, transaction: bool
) -> None:
    """The first that finds one out says BEGIN on another; the others are looked at before they are lent."""
    warm, run = holding(POOL_SIZE, read), holding(POOL_SIZE, read)
    steps = step(warm, path="/warm", name="Warm"), step(run, transaction=transaction)
    async with behind_proxy(step_template) as (kit, proxy), kit.client(*steps) as client:
        assert await together(client, ["/warm"] * POOL_SIZE) == [200] * POOL_SIZE
        proxy.silence()
        if transaction:
            assert await together(client, ["/run"] * POOL_SIZE) == [200] * POOL_SIZE
        assert await eventually(lambda: is_served(kit, transaction))
    assert kit.connections_out() == 0


async def is_served(kit: StepKit, transaction: bool) -> bool:
    async def handler(req: dict[str, Any], context: Any) -> Any:
        await read(context)
        return OK

    return (await kit.post(handler, transaction=transaction)).status_code == 200


@pytest.mark.parametrize("transaction", [True, False])
async def test_a_step_whose_network_goes_silent_is_told_to_come_back(
    step_template: StepTemplate, transaction: bool
) -> None:
    """In the middle of its work: nothing of a transaction is stored; without one, it is to look at what is."""
    async with behind_proxy(step_template) as (kit, proxy):

        async def handler(req: dict[str, Any], context: Any) -> Any:
            await context.streams.chatMessage.set("general", "1", {"text": "hi"})
            if not transaction:
                await kit.database.pool.check_in(await kit.database.pool.check_out())
            proxy.silence()
            await context.streams.chatMessage.set("general", "2", {"text": "hi"})
            return OK

        answer = await kit.post(handler, transaction=transaction)
        code = "database_unavailable" if transaction else "commit_unknown"
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, code)
        assert answer.headers.get("retry-after") == ("5" if transaction else None)
        assert await kit.ids() == ([] if transaction else ["1"])
        assert await is_served(kit, transaction)


async def test_a_commit_without_an_answer_is_told_as_unknown(step_template: StepTemplate) -> None:
    """It may have been stored."""
    async with behind_proxy(step_template) as (kit, proxy):

        async def handler(req: dict[str, Any], context: Any) -> Any:
            await context.streams.chatMessage.set("general", "1", {"text": "hi"})
            proxy.silence()
            return OK

        answer = await kit.post(handler)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "commit_unknown")
        assert "retry-after" not in answer.headers
        assert await is_served(kit, True)


async def test_a_step_that_failed_does_not_wait_for_its_rollback(step_template: StepTemplate) -> None:
    """Its own error is what its client is told, though ROLLBACK gets no answer."""
    async with behind_proxy(step_template) as (kit, proxy):

        async def handler(req: dict[str, Any], context: Any) -> Any:
            await context.streams.chatMessage.set("general", "1", {"text": "hi"})
            proxy.silence()
            raise ValueError

        assert (await kit.post(handler)).status_code == 500
        assert await is_served(kit, True)
        assert kit.connections_out() == 0


async def test_a_statement_that_waits_for_a_lock_waits_on(step_template: StepTemplate) -> None:
    """However long: the server is at work on it, and says so when asked."""
    async with behind_proxy(step_template) as (kit, _):

        async def handler(req: dict[str, Any], context: Any) -> Any:
            await context.streams.chatMessage.set("general", "1", {"text": "hi"})
            return OK

        await kit.post(handler)
        other = await asyncpg.connect(kit.url)
        theirs = other.transaction()
        await theirs.start()
        await other.execute("select from streams.chat_message for update")
        expected: list[float] = []
        answer = asyncio.create_task(kit.post(handler))

        def is_given_more_time() -> bool:
            expected.extend(it.due_at for it in kit.database.pool._lent if it.due_at not in (*expected, lent.NEVER))
            return len(expected) > 2

        await eventually(is_given_more_time)
        await theirs.rollback()
        await other.close()
        assert (await answer).status_code == 200


async def test_a_long_statement_of_the_author_runs_as_long_as_it_takes(step_template: StepTemplate) -> None:
    """Nobody asks after what runs by context.db; keep-alives find out when its connection is dead."""
    async with behind_proxy(step_template) as (kit, _):

        async def handler(req: dict[str, Any], context: Any) -> Any:
            await context.db.execute(text("select pg_sleep(1)"))
            return OK

        assert (await kit.post(handler)).status_code == 200


async def test_readiness_is_not_kept_by_connections_that_were_lost(step_template: StepTemplate) -> None:
    """It looks at one of them in vain, and at a new one then."""
    async with behind_proxy(step_template) as (kit, proxy):
        async with kit.client(step(holding(POOL_SIZE, read))) as client:
            assert await together(client, ["/run"] * POOL_SIZE) == [200] * POOL_SIZE
        proxy.silence()
        assert await kit.database.trouble() is None


async def test_connections_are_kept_alive_at_both_ends(step_template: StepTemplate) -> None:
    """Those of steps, of the feed and of the archive: a dead peer is found out by the system."""
    async with behind_proxy(step_template) as (kit, _):
        taken = await kit.database.pool.check_out()
        single = await kit.database.connect()
        async with kit.database.archive_pool.acquire() as archive:
            for connection in (taken.driver, single, archive):
                assert await connection.fetchval("select current_setting('tcp_keepalives_idle')") in ("5", "0")
                end: socket.socket = connection._transport.get_extra_info("socket")  # type: ignore[union-attr]
                assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                if hasattr(socket, "TCP_USER_TIMEOUT"):
                    assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
        await single.close()
        await kit.database.pool.check_in(taken)
        assert isinstance(taken, Lent)
