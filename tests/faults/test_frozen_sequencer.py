"""A whole server process that is stopped, not dead, while it is the sequencer."""

from __future__ import annotations

import asyncio
import signal

import httpx
import pytest

from tests.conftest import StartServer
from tests.harness import READY_TIMEOUT_SECONDS, Server, Subscriber
from tests.integration.sequencer_fixtures import Log, backend_of_sequencer


async def is_ready(server: Server) -> bool:
    async with httpx.AsyncClient(base_url=server.url) as http:
        try:
            return (await http.get("/health/ready")).status_code == 200
        except httpx.TransportError:
            return False


@pytest.mark.parametrize("rounds", [1, pytest.param(8, marks=pytest.mark.slow)])
async def test_a_stopped_server_is_replaced_and_stands_by_when_it_goes_on(
    database_url: str, start_server: StartServer, rounds: int
) -> None:
    """Subscribers of the other one go on at once; nothing is numbered twice; the stopped one serves again."""
    sequencing = await start_server()
    async with Log.open(database_url) as log:
        await backend_of_sequencer(log.observer)
        standing_by = await start_server()
        written = []
        for i in range(rounds):
            written += await stop_one(log, sequencing, standing_by, f"{i}")
            sequencing, standing_by = standing_by, sequencing
        assert [xid for _, xid in await log.commits()] == written
        await log.check()


async def stop_one(log: Log, sequencing: Server, standing_by: Server, name: str) -> list[int]:
    """Stop the sequencer's server, write, and let it go on, write again; returns the xids."""
    holder = await backend_of_sequencer(log.observer)
    written = [await log.write(f"{name}/before")]
    async with Subscriber.connect(standing_by) as subscriber:
        await log.until_numbered(written[0])
        await subscriber.join("chatMessage", "g")
        assert (await subscriber.next())["event"]["type"] == "sync"
        sequencing.process.send_signal(signal.SIGSTOP)
        try:
            for word in ("waits", "and goes on"):
                written.append(await log.write(f"{name}/{word}"))
                assert (await subscriber.next())["event"]["data"]["id"] == f"{name}/{word}/1"
        finally:
            sequencing.process.send_signal(signal.SIGCONT)
        assert await backend_of_sequencer(log.observer) != holder
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            while not await is_ready(sequencing):
                pass  # each look is a request
        written.append(await log.write(f"{name}/after"))
        assert (await subscriber.next())["event"]["data"]["id"] == f"{name}/after/1"
    return written
