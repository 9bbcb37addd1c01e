"""A Postgres of the suite's own, which it may kill, and the address of any Postgres for a proxy."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import psutil

from tests.faults.sql_writer import CONNECTION_LOST
from tidelog.postgres.embedded import EmbeddedPostgres

PREPARED_TRANSACTIONS_MAX = 5
POLL_SECONDS = 0.02
READY_TIMEOUT_SECONDS = 60


class OwnPostgres:
    """An embedded server whose processes may be killed. Held all the while: whoever starts it again lets go."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hold = EmbeddedPostgres(folder)
        self.url = ""

    def start(self) -> None:
        self.url = self._hold.start()

    def stop(self) -> None:
        self._hold.stop()

    async def end(self, number: signal.Signals) -> None:
        """Send the postmaster a signal that ends it, and start the server again once it is gone."""
        postmaster = psutil.Process(int((self._folder / "postgres" / "postmaster.pid").read_text().split()[0]))
        postmaster.send_signal(number)
        while postmaster.is_running() and postmaster.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110 - no child of ours: it can't be waited for
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.to_thread(self._start_again)
        await self._until_ready()

    async def kill_backend(self, pid: int) -> None:
        """kill -9 one of its backends: the postmaster then ends all others, and recovers."""
        backend = psutil.Process(pid)
        backend.kill()
        while backend.is_running():  # noqa: ASYNC110 - no child of ours: it can't be waited for
            await asyncio.sleep(POLL_SECONDS)
        await self._until_ready()

    async def _until_ready(self) -> None:
        """Wait until it takes connections."""
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            while True:
                try:
                    connection = await asyncpg.connect(self.url)
                except CONNECTION_LOST:
                    await asyncio.sleep(POLL_SECONDS)
                else:
                    connection.terminate()
                    return

    def _start_again(self) -> None:
        again = EmbeddedPostgres(self._folder)
        again.start()
        again.stop()


@asynccontextmanager
async def own_postgres() -> AsyncIterator[OwnPostgres]:
    """A running one, with prepared transactions allowed; removed afterwards. On a disk, whose flushes take time."""
    folder = Path(tempfile.mkdtemp(prefix="tidelog-faults-", dir="/var/tmp"))
    postgres = OwnPostgres(folder)
    await asyncio.to_thread(postgres.start)
    try:
        connection = await asyncpg.connect(postgres.url)
        await connection.execute(f"alter system set max_prepared_transactions = {PREPARED_TRANSACTIONS_MAX}")
        await connection.close()
        await postgres.end(signal.SIGINT)
        yield postgres
    finally:
        await asyncio.to_thread(postgres.stop)
        shutil.rmtree(folder)
