"""Sessions that take the sequencer's locks and are no sequencers: anybody with a connection can, and stops nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from tests.harness import RUN, Server, Subscriber, eventually, free_port
from tests.integration.sequencer_fixtures import (
    Log,
    backend_of_sequencer,
    connected,
    sequencing,
)
from tidelog.numbering import doorbell
from tidelog.store.holders import SEQUENCER_NAME

HOLD = {
    "alone": "select pg_advisory_lock(1953064044, 1)",
    "shared": "select pg_advisory_lock_shared(1953064044, 1)",
    "in a transaction": "begin; select pg_advisory_xact_lock(1953064044, 1)",
}
DOORBELL = {
    "alone": "select pg_advisory_lock(1953064044, 2)",
    "shared": "select pg_advisory_lock_shared(1953064044, 2)",
}
IS_WAITING = (
    "select exists (select from pg_locks where locktype = 'advisory' and objid = 1 and pid = $1 and not granted)"
)
IS_THERE = "select exists (select from pg_stat_activity where pid = $1)"
END = "select pg_terminate_backend($1, 5000)"
# Shown to be at work to whoever sees it, and never done.
SLEEP = "select pg_sleep(3600)"


@asynccontextmanager
async def role(log: Log, url: str, name: str, *grants: str) -> AsyncIterator[str]:
    """The database's URL as a new role that has these rights and no others."""
    name = f"tidelog_test_{name}_{RUN}"
    await log.writer.execute(f"create role {name} login")
    for grant in grants:
        await log.writer.execute(grant.format(name))
    yield make_url(url).set(username=name).render_as_string(hide_password=False)
    await log.writer.execute(
        f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = '{name}'; "
        f"drop owned by {name}; drop role {name}"
    )


@pytest.fixture
async def stranger_url(log: Log, database_url: str) -> AsyncIterator[str]:
    """The database as anybody sees it who may connect."""
    async with role(log, database_url, "stranger") as url:
        yield url


@pytest.fixture
async def limited_url(log: Log, database_url: str) -> AsyncIterator[str]:
    """The database as a role sees it that may do the sequencer's work, and may neither see nor end others' sessions."""
    async with role(
        log,
        database_url,
        "sequencer",
        "grant usage on schema streams to {}",
        "grant all on all tables in schema streams to {}",
    ) as url:
        yield url


@asynccontextmanager
async def sleeping(url: str, sql: str, **settings: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A session that has done this, and sleeps in a statement."""
    async with connected(url, **settings) as connection:
        await connection.execute(sql)
        asleep = asyncio.ensure_future(connection.execute(SLEEP))
        yield connection
        connection.terminate()
        await asyncio.gather(asleep, return_exceptions=True)


@pytest.mark.parametrize("hold", HOLD)
async def test_a_stranger_with_the_sequencers_lock_is_ended(
    log: Log, database_url: str, stranger_url: str, hold: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Though it is at work; the log says who it was, once."""
    async with sleeping(stranger_url, HOLD[hold]) as stranger:
        pid = stranger.get_server_pid()
        with sequencing(database_url) as thread:
            assert await log.write_numbered("waits") == 1
            assert await log.write_numbered("and goes on") == 2
            assert thread.sequencer.warnings == {}
        assert not await log.observer.fetchval(IS_THERE, pid)
    assert caplog.text.count(f"no sequencer (pid {pid}, role {make_url(stranger_url).username}") == 1
    await log.check()


async def test_two_strangers_who_share_the_lock_are_ended(log: Log, database_url: str, stranger_url: str) -> None:
    """Both."""
    async with sleeping(stranger_url, HOLD["shared"]), sleeping(stranger_url, HOLD["shared"]):
        with sequencing(database_url):
            assert await log.write_numbered("waits") == 1


async def test_a_session_of_the_owners_is_no_sequencer(log: Log, database_url: str) -> None:
    """A psql, or a step: it has the rights, and another name."""
    async with sleeping(database_url, HOLD["alone"], application_name="psql"):
        with sequencing(database_url):
            assert await log.write_numbered("waits") == 1


async def test_a_stranger_with_a_sequencers_name_is_none(log: Log, database_url: str, stranger_url: str) -> None:
    """Names can be chosen; it could not number."""
    async with sleeping(stranger_url, HOLD["alone"], application_name=SEQUENCER_NAME):
        with sequencing(database_url):
            assert await log.write_numbered("waits") == 1


async def test_strangers_that_queue_for_the_lock_get_nothing_by_it(
    log: Log, database_url: str, stranger_url: str
) -> None:
    """It is theirs when the sequencer's connection is lost; both are ended, and numbering goes on."""
    async with AsyncExitStack() as stack:
        with sequencing(database_url):
            await log.write_numbered("before")
            pids, waiting = [], []
            for _ in range(2):
                stranger = await stack.enter_async_context(connected(stranger_url))
                pids.append(stranger.get_server_pid())
                waiting.append(asyncio.ensure_future(stranger.execute(f"{HOLD['alone']}; {SLEEP}")))
                await eventually(partial(log.observer.fetchval, IS_WAITING, pids[-1]))
            sequencer = await backend_of_sequencer(log.observer)
            await log.observer.fetchval(END, sequencer)
            assert await log.write_numbered("after") == 2
            await asyncio.gather(*waiting, return_exceptions=True)
            assert [await gone(log, pid) for pid in pids] == [True, True]
    await log.check()


async def test_numbering_goes_on_without_the_lock_where_its_holder_can_t_be_ended(
    log: Log, database_url: str, limited_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Readiness names who has it, as long as it has it; then it is the sequencer's again."""
    async with sleeping(database_url, HOLD["alone"], application_name="psql") as holder:
        with sequencing(limited_url) as thread:
            assert await log.write_numbered("waits") == 1
            assert await log.write_numbered("and goes on") == 2
            assert f"pid {holder.get_server_pid()}" in thread.sequencer.warnings["sequencer_lock"]
            assert thread.trouble is None
            await log.observer.fetchval(END, holder.get_server_pid())
            await eventually(lambda: thread.sequencer.warnings == {})
            assert await backend_of_sequencer(log.observer) != holder.get_server_pid()
            assert await log.write_numbered("with the lock") == 3
    assert caplog.text.count("is held by a session that is no sequencer") == 1
    await log.check()


async def test_several_processes_without_the_lock_agree_on_one(
    log: Log, database_url: str, limited_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They may meet once, when the first changes wait; not at every commit."""
    async with sleeping(database_url, HOLD["alone"], application_name="psql"):
        with sequencing(limited_url), sequencing(limited_url), sequencing(limited_url):
            for number in range(1, 101):
                assert await log.write_numbered(f"{number}") == number
    assert caplog.text.count("another process has given these numbers") <= 4
    await log.check()


@pytest.mark.parametrize("hold", DOORBELL)
async def test_a_stranger_with_the_doorbells_lock_stops_nothing(
    log: Log, database_url: str, limited_url: str, hold: str
) -> None:
    """Alone it makes every writer ring, which readiness names; sharing it keeps the sequencer awake."""
    async with sleeping(database_url, DOORBELL[hold], application_name="psql") as holder:
        with sequencing(limited_url) as thread:
            assert [await log.write_numbered(f"{i}") for i in range(20)] == list(range(1, 21))
            if hold == "alone":
                await eventually(lambda: thread.sequencer.warnings)
                assert f"pid {holder.get_server_pid()}" in thread.sequencer.warnings["doorbell_lock"]
                assert await log.write_numbered("after") == 21
                await log.observer.fetchval(END, holder.get_server_pid())
                await eventually(lambda: thread.sequencer.warnings == {})
    await log.check()


async def test_who_keeps_the_sequencer_awake_for_long_is_told_once(
    log: Log, database_url: str, stranger_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not ended: it may be a long transaction that wrote to a stream."""
    monkeypatch.setattr(doorbell, "HOLDERS_POLL_SECONDS", 0.0)
    monkeypatch.setattr(doorbell, "KEPT_AWAKE_SECONDS", 0.0)
    caplog.set_level("INFO", "tidelog.sequencer")
    async with connected(database_url) as writing, sleeping(stranger_url, DOORBELL["shared"]) as sharing:
        await writing.execute("begin")
        await log.write("long", connection=writing)
        with sequencing(database_url):
            told = [f"or shares its lock: pid {one.get_server_pid()}," for one in (writing, sharing)]
            for text in told:
                await eventually(partial(is_told, caplog, text))
            for number in range(1, 4):
                assert await log.write_numbered(f"{number}") == number
            await writing.execute("commit")
    assert [caplog.text.count(text) for text in told] == [1, 1]


def is_told(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return text in caplog.text


async def test_a_stranger_with_the_doorbells_lock_is_ended(log: Log, database_url: str, stranger_url: str) -> None:
    """And the sequencer sleeps again, rung by those who write."""
    async with sleeping(stranger_url, DOORBELL["alone"]) as stranger:
        with sequencing(database_url):
            await eventually(lambda: gone(log, stranger.get_server_pid()))
            assert await log.write_numbered("after") == 1


async def test_a_stranger_that_waits_for_the_doorbells_lock_is_ended(
    log: Log, database_url: str, stranger_url: str
) -> None:
    """While it waits every writer rings: for as long as a transaction that wrote to a stream takes."""
    async with connected(database_url) as writing, connected(stranger_url) as stranger:
        await writing.execute("begin")
        await log.write("long", connection=writing)
        with sequencing(database_url):
            waiting = asyncio.ensure_future(stranger.execute(DOORBELL["alone"]))
            await eventually(lambda: gone(log, stranger.get_server_pid()))
            assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], Exception)
            assert await log.write_numbered("beside it") == 1
            await writing.execute("commit")
            assert await log.write_numbered("after") == 3
    await log.check()


async def gone(log: Log, pid: int) -> bool:
    return not await log.observer.fetchval(IS_THERE, pid)


async def test_subscribers_are_served_and_readiness_names_the_stranger(
    log: Log, database_url: str, limited_url: str
) -> None:
    """On a whole server, whose role may not end the session that got the lock since it had queued for it."""
    server = Server(limited_url, None, {}, free_port())
    try:
        await server.wait_until_ready()
        sequencer = await backend_of_sequencer(log.observer)
        async with connected(database_url, application_name="psql") as stranger, Subscriber.connect(server) as socket:
            view = await socket.view("chatMessage", "g")
            queueing = asyncio.ensure_future(stranger.execute(f"{HOLD['alone']}; {SLEEP}"))
            await eventually(partial(log.observer.fetchval, IS_WAITING, stranger.get_server_pid()))
            await log.observer.fetchval(END, sequencer)
            for id in ("waits", "goes on"):
                await log.write(id)
            await socket.until_mark(log.writer, view)
            assert set(view.items) == {"waits/1", "goes on/1"}
            async with server.http() as http:
                answer = await http.get("/health/ready")
            assert (answer.status_code, answer.json()["warnings"]) == (200, {"sequencer_lock": "held by a stranger"})
            assert server.log().count(f"no sequencer (pid {stranger.get_server_pid()}") == 1
            stranger.terminate()
            await asyncio.gather(queueing, return_exceptions=True)
    finally:
        await server.stop()
    await log.check()
