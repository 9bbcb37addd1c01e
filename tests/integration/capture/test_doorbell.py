"""The bell that writers ring, and when they don't."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from tests.harness import Sql, connect_sql
from tests.integration.capture.log import DELETE, INSERT, UPDATE, log_of

CHANNEL = "tidelog_doorbell"
DOORBELL = "1953064044, 2"


class Bell:
    """A listener on the doorbell's channel, and whoever holds its lock: a sequencer that sleeps, or doesn't."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        self._rings: asyncio.Queue[str] = asyncio.Queue()

    async def open(self) -> None:
        await self._connection.add_listener(CHANNEL, lambda *notified: self._rings.put_nowait(str(notified[-1])))

    async def sleep(self) -> bool:
        return bool(await self._connection.fetchval(f"select pg_try_advisory_lock({DOORBELL})"))

    async def wake(self) -> None:
        assert await self._connection.fetchval(f"select pg_advisory_unlock({DOORBELL})")

    async def rings(self) -> list[str]:
        """The payloads of all rings so far: those before one that we make ourselves."""
        await self._connection.execute(f"notify {CHANNEL}, 'last'")
        rings = []
        while (ring := await self._rings.get()) != "last":
            rings.append(ring)
        return rings


@pytest.fixture
async def bell(url: str) -> AsyncIterator[Bell]:
    connection = await connect_sql(url)
    bell = Bell(connection)
    await bell.open()
    yield bell
    await connection.close()


async def test_the_bell_rings_once_for_each_transaction_while_the_sequencer_sleeps(
    sql: Sql, bell: Bell, group: str
) -> None:
    """However many rows it writes, by whatever operation, and for an event; without a payload."""
    assert await bell.sleep()
    async with sql.transaction():
        for id in "abc":
            await sql.execute(INSERT, group, id, {})
        assert await bell.rings() == []  # not before the commit
    assert await bell.rings() == [""]
    await sql.execute(UPDATE, group, "a", {"n": 1})
    await sql.execute(DELETE, group, "b")
    await sql.execute("select streams.send('chatMessage', $1, null, 'typing', '{}')", group)
    assert await bell.rings() == ["", "", ""]


async def test_the_bell_is_silent_while_the_sequencer_is_awake(sql: Sql, bell: Bell, group: str) -> None:
    """A NOTIFY in every transaction would make them wait for each other's flush."""
    await sql.execute(INSERT, group, "a", {})
    await sql.execute(UPDATE, group, "a", {"n": 1})
    await sql.execute(DELETE, group, "a")
    await sql.execute("select streams.send('chatMessage', $1, null, 'typing', '{}')", group)
    assert await bell.rings() == []


async def test_what_changes_nothing_does_not_ring(sql: Sql, bell: Bell, group: str) -> None:
    """A rolled-back write, an update to the same data, a delete of no row."""
    await sql.execute(INSERT, group, "a", {})
    assert await bell.sleep()
    with suppress(ZeroDivisionError):
        async with sql.transaction():
            await sql.execute(INSERT, group, "b", {})
            raise ZeroDivisionError
    await sql.execute(UPDATE, group, "a", {})
    await sql.execute(DELETE, group, "b")
    assert await bell.rings() == []


async def test_the_sequencer_cant_fall_asleep_while_a_writer_that_did_not_ring_is_at_work(
    sql: Sql, bell: Bell, group: str
) -> None:
    """It gets the lock only when such a writer's changes are visible; a rolled-back savepoint keeps that."""
    async with sql.transaction():
        await sql.execute(INSERT, group, "a", {})
        with suppress(ZeroDivisionError):
            async with sql.transaction():
                await sql.execute(INSERT, group, "b", {})
                raise ZeroDivisionError
        assert not await bell.sleep()
    assert await bell.sleep()
    assert [id for _, id, *_ in await log_of(sql, group)] == ["a"]


async def test_a_writer_rings_for_a_sequencer_that_fell_asleep_after_its_savepoint_was_undone(
    sql: Sql, bell: Bell, group: str
) -> None:
    """The shared lock goes with the savepoint that took it: the next write asks again."""
    async with sql.transaction():
        with suppress(ZeroDivisionError):
            async with sql.transaction():
                await sql.execute(INSERT, group, "a", {})
                raise ZeroDivisionError
        assert await bell.sleep()
        await sql.execute(INSERT, group, "b", {})
    assert await bell.rings() == [""]


async def test_a_writer_that_rang_does_not_keep_the_sequencer_awake(sql: Sql, bell: Bell, group: str) -> None:
    """It rings at its commit: the sequencer may wake, find nothing, and sleep again meanwhile."""
    assert await bell.sleep()
    async with sql.transaction():
        await sql.execute(INSERT, group, "a", {})
        await bell.wake()
        assert await bell.sleep()
    assert await bell.rings() == [""]
