"""Taking over: from a sequencer that is frozen, not dead; and never from one that works."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import asyncpg
import psutil
import pytest
from sqlalchemy.engine import make_url

from tests.harness import RUN
from tests.integration.sequencer_fixtures import WAIT_SECONDS, Log, backend_of_sequencer, connected, sequencing
from tidelog.numbering import standby
from tidelog.numbering.standby import END_FROZEN, Standby
from tidelog.store.holders import SEQUENCER_NAME
from tidelog.store.log import FEED_SETTINGS, Numbering

TAKE_LOCK = "select pg_advisory_lock(1953064044, 1)"
IS_ACTIVE = "select state = 'active' and wait_event = 'advisory' from pg_stat_activity where pid = $1"
LAST_LOOK = "select query_start from pg_stat_activity where pid = $1"
LIMITED_ROLE = "tidelog_test_limited"


@pytest.fixture
async def frozen(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """What the database sees of a frozen sequencer: a backend that has the lock, and hears nothing."""
    async with connected(database_url, application_name=SEQUENCER_NAME) as connection:
        await connection.execute(TAKE_LOCK)
        yield connection


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Frozen after less than the usual 3 s (which tests/faults/test_frozen_sequencer.py waits for)."""
    monkeypatch.setattr(standby, "FROZEN_AFTER", timedelta(seconds=0.3))
    yield


@pytest.fixture
async def limited_url(database_url: str, log: Log) -> AsyncIterator[str]:
    """The database as a role sees it that may do the sequencer's work, and may not end others' backends."""
    role = f"{LIMITED_ROLE}_{RUN}"
    await log.writer.execute(
        f"create role {role} login; grant usage on schema streams to {role}; "
        f"grant all on all tables in schema streams to {role}"
    )
    yield make_url(database_url).set(username=role).render_as_string(hide_password=False)
    await log.writer.execute(f"drop owned by {role}; drop role {role}")


@pytest.mark.usefixtures("impatient")
async def test_a_frozen_sequencer_is_ended(log: Log, database_url: str, frozen: asyncpg.Connection[Any]) -> None:
    """Its backend goes, the standby numbers what waited, and whoever wakes up finds its connection gone."""
    with sequencing(database_url):
        xid = await log.write("waits")
        assert await log.until_numbered(xid) == 1
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await frozen.fetchval("select 1")
    await log.check()


async def test_one_at_work_is_left_alone(log: Log, frozen: asyncpg.Connection[Any]) -> None:
    """However long its statement takes: whoever came instead would have to do the same."""
    await log.observer.execute("select pg_advisory_lock(1, 1)")
    working = asyncio.ensure_future(frozen.execute("select pg_advisory_lock(1, 1)"))
    while not await log.observer.fetchval(IS_ACTIVE, frozen.get_server_pid()):
        pass  # each look is a round trip to the server
    assert await log.writer.fetch(END_FROZEN, frozen.get_server_pid(), timedelta(0), True) == []
    await log.observer.execute("select pg_advisory_unlock(1, 1)")
    await working
    assert await backend_of_sequencer(log.observer) == frozen.get_server_pid()


@pytest.mark.usefixtures("impatient")
async def test_an_idle_database_ends_nobody(log: Log, database_url: str, frozen: asyncpg.Connection[Any]) -> None:
    """Nothing waits for a number, so nobody is replaced, however often a standby looks."""
    async with connected(database_url, **FEED_SETTINGS) as connection:
        standing_by = asyncio.ensure_future(Standby(connection).until_needed())
        looks = set()
        async with asyncio.timeout(WAIT_SECONDS):
            while len(looks) < 8:
                looks.add(await log.observer.fetchval(LAST_LOOK, connection.get_server_pid()))
        standing_by.cancel()
    assert await backend_of_sequencer(log.observer) == frozen.get_server_pid()


@pytest.mark.usefixtures("impatient")
async def test_without_the_right_to_end_it_numbering_goes_on(
    log: Log, limited_url: str, frozen: asyncpg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Then the lock stays with the frozen one, and the unique keys keep the two apart."""
    with sequencing(limited_url):
        assert await log.write_numbered("waits") == 1
        assert await log.write_numbered("and goes on") == 2
        assert await backend_of_sequencer(log.observer) == frozen.get_server_pid()
    assert "may not end its backend" in caplog.text
    await log.check()


@pytest.mark.usefixtures("impatient")
async def test_a_stopped_backend_holds_up_nobody(
    log: Log, database_url: str, frozen: asyncpg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It can't even be ended; it goes when it is woken up, and its lock is free again."""
    backend = process_of_backend(frozen.get_server_pid())
    backend.send_signal(signal.SIGSTOP)
    try:
        with sequencing(database_url):
            assert await log.write_numbered("waits") == 1
            assert await log.write_numbered("and goes on") == 2
    finally:
        backend.send_signal(signal.SIGCONT)
    assert "can't be ended" in caplog.text
    backend.wait(timeout=WAIT_SECONDS)
    with sequencing(database_url):
        assert await log.write_numbered("after") == 3
    await log.check()


async def test_two_that_number_without_knowing_of_each_other(log: Log, database_url: str) -> None:
    """Should two ever number at once, each commit has one number, and one of them stands by again."""
    with sequencing(database_url):
        await log.write_numbered("first")
        async with connected(database_url, **FEED_SETTINGS) as other:
            numbering = await Numbering.load(other)
            for i in range(50):
                xid = await log.write(f"{i}")
                with contextlib.suppress(asyncpg.UniqueViolationError):
                    await numbering.advance(other)
                    numbering = await Numbering.load(other)
                await log.until_numbered(xid)
        assert await log.write_numbered("last") == 52
    await log.check()


def process_of_backend(pid: int) -> psutil.Process:
    """The backend as a process of this machine, or a skip."""
    try:
        process = psutil.Process(pid)
        process.send_signal(0)
    except psutil.Error as error:
        pytest.skip(f"the server's processes can't be stopped from here: {error}")
    assert "postgres" in process.name()
    return process
