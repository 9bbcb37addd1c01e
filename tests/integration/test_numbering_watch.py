"""Changes that wait for their numbers are told to readiness, whatever the cause."""

from __future__ import annotations

from functools import partial
from typing import Any

import asyncpg
import pytest

from tests.conftest import StartServer
from tests.harness import Server, eventually
from tests.integration.sequencer_fixtures import Log, connected, sequencing
from tidelog.feed import watch
from tidelog.feed.watch import Watch
from tidelog.store.log import Numbering

SEND = "select streams.send('chatMessage', 'g', null, 'typing', '{}')"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever two looks in a row find waiting is trouble."""
    monkeypatch.setattr(watch, "UNNUMBERED_SECONDS", 1e-9)


@pytest.mark.usefixtures("at_once")
async def test_changes_that_wait_for_numbers_are_trouble_until_they_have_them(
    log: Log, connection: asyncpg.Connection[Any]
) -> None:
    """And so are events; of a commit that was numbered in between only what came after it is."""
    watching, numbering = Watch(), await Numbering.load(connection)
    for write in (log.write("first"), log.write("second"), log.writer.execute(SEND)):
        await write
        await eventually(lambda: looked(watching, connection, "changes wait for numbers: for 0 s"))
        assert await numbering.advance(connection) == 1
        await eventually(lambda: looked(watching, connection, None))


@pytest.mark.usefixtures("at_once")
async def test_an_open_transaction_is_no_trouble(
    log: Log, database_url: str, connection: asyncpg.Connection[Any]
) -> None:
    """Its changes are not to be seen yet, however long it takes; nor are those that were rolled back."""
    watching = Watch()
    async with connected(database_url) as writing:
        await writing.execute("begin")
        await log.write("open", connection=writing)
        with sequencing(database_url):
            for number in range(5):
                await log.write_numbered(f"{number}")
                await watching.look(connection)
        for _ in range(5):
            await watching.look(connection)
            assert watching.numbering is None
        await writing.execute("rollback")
        for _ in range(5):
            await watching.look(connection)
            assert watching.numbering is None


async def test_a_log_that_can_t_be_looked_at_is_told_and_stops_nothing(
    log: Log, connection: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A locked table keeps the watch waiting for a bounded time; the connection can be used on."""
    monkeypatch.setattr(watch, "TIMEOUT_SECONDS", 0.2)
    watching = Watch()
    await log.writer.execute("begin; lock table streams.change in access exclusive mode")
    await watching.look(connection)
    assert watching.numbering == "not known: TimeoutError: "
    await log.writer.execute("rollback")
    monkeypatch.undo()
    await watching.look(connection)
    assert watching.numbering is None


async def test_a_sequencer_whose_thread_has_ended_is_trouble(database_url: str) -> None:
    """Though its last word was that all was well."""
    with sequencing(database_url) as thread:
        await eventually(lambda: thread.trouble is None)
    assert thread.trouble == "its thread has ended"


@pytest.mark.slow
async def test_readiness_names_changes_without_numbers(log: Log, database_url: str, start_server: StartServer) -> None:
    """On the process that would number, and on the other; it is well again by itself."""
    servers = [await start_server(), await start_server()]
    await log.writer.execute("begin; lock table streams.commit in share mode")
    async with connected(database_url) as other:
        await log.write("waits", connection=other)
        for server in servers:
            await eventually(partial(numbering_of, server, "changes wait for numbers"))
    await log.writer.execute("rollback")
    for server in servers:
        await eventually(partial(numbering_of, server, "ok"))


async def looked(watching: Watch, connection: asyncpg.Connection[Any], trouble: str | None) -> bool:
    await watching.look(connection)
    return watching.numbering == trouble


async def numbering_of(server: Server, word: str) -> bool:
    async with server.http() as http:
        answer = await http.get("/health/ready")
    is_ready: bool = answer.json()["checks"]["numbering"] == word
    return is_ready and (answer.status_code == 200 or word != "ok")
