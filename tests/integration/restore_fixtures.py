"""Two clusters, and what goes from one to the other: dumps, restores, base backups."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy.engine import make_url

from tests import forks
from tests.harness import Databases, database_url_of, server_environment
from tidelog.postgres.cluster import CONNECTIONS_MAX
from tidelog.postgres.embedded import EmbeddedPostgres
from tidelog.postgres.os_user import BIN, programs_for

PROGRAM_TIMEOUT_SECONDS = 100
REPLICA_PORT = 5433
HISTORY = (
    "select position, at, seq, op, group_id, id, version, data from streams.chat_message_history order by position, seq"
)
UNNUMBERED_CHANGES = (
    "select seq, op, group_id, id, version, data from streams.change c "
    "where not exists (select from streams.commit n where n.xid = c.xid) order by seq"
)


@contextmanager
def cluster() -> Iterator[Databases]:
    """A cluster of its own; the databases that are made on it need not be dropped."""
    folder = Path(tempfile.mkdtemp(prefix="tidelog-cluster-"))
    embedded = EmbeddedPostgres(folder)
    try:
        yield Databases(embedded.start())
    finally:
        embedded.stop()
        shutil.rmtree(folder)


async def run(program: str, *arguments: str, account: os.stat_result | None = None, folder: str = "/") -> None:
    """Run one of Postgres's programs, if we are root as the account that owns something; raises with what it said."""
    user, group = (account.st_uid, account.st_gid) if account and os.geteuid() == 0 else (None, None)
    # Where that account may not pass to ours, as in a clone in a folder of root's own, it has others.
    programs = BIN if user is None or group is None else programs_for(user, group)
    with tempfile.TemporaryFile("w+") as output:  # no pipe: a server that pg_ctl starts would keep it open
        done = await asyncio.to_thread(
            subprocess.run,
            [programs / program, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=PROGRAM_TIMEOUT_SECONDS,
            cwd=folder,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
        )
        if done.returncode:
            output.seek(0)
            raise RuntimeError(f"{program} failed:\n{output.read()}")


class Replica:
    """A streaming replica of a cluster."""

    def __init__(self, folder: Path, account: os.stat_result) -> None:
        self._folder = folder
        self._account = account
        options = ("listen_addresses=''", f"unix_socket_directories={folder}", f"port={REPLICA_PORT}")
        # As the primary's, or it doesn't start.
        settings = (*options, f"max_connections={CONNECTIONS_MAX}", "max_locks_per_transaction=256")
        self._options = " ".join(f"-c {setting}" for setting in settings)
        # Not the primary's port: the backup has the lock file of its socket.
        self.url = f"postgresql://postgres@/postgres?host={folder}&port={REPLICA_PORT}"

    async def until_replayed(self, lsn: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            async with asyncio.timeout(PROGRAM_TIMEOUT_SECONDS):
                while not await connection.fetchval("select pg_last_wal_replay_lsn() >= $1::text::pg_lsn", lsn):
                    pass  # each look is a round trip to the server
        finally:
            await connection.close()

    async def start(self, *, alone: bool = False) -> None:
        """Begin to follow the primary or, if `alone`, stay at what it had."""
        options = self._options + (" -c primary_conninfo=" if alone else "")
        await self.control("start", "-w", "-l", str(self._folder / "server.log"), "-o", options)

    async def promote(self) -> None:
        await self.control("promote", "-w")

    async def control(self, *arguments: str) -> None:
        await run("pg_ctl", "-D", str(self._folder), *arguments, account=self._account)


@asynccontextmanager
async def replica_of(primary: Databases) -> AsyncIterator[Replica]:
    folder, account = _folder_for_replica(Path(str(make_url(primary.server_url).query["host"])))
    replica = Replica(folder, account)
    url = database_url_of(primary.server_url, "postgres")
    await run("pg_basebackup", "-D", str(folder), "-R", "-X", "stream", "-c", "fast", "-d", url, account=account)
    await replica.start()
    try:
        yield replica
    finally:
        await replica.control("stop", "-m", "immediate")


async def adopt(url: str) -> subprocess.CompletedProcess[str]:
    """What scripts/adopt runs."""
    return await asyncio.to_thread(forks.run, "tidelog.cli", ["adopt"], server_environment(url, None))


async def spend_xids(connection: asyncpg.Connection[Any], until: int) -> None:
    """Have the server give out the xids below `until`, which other transactions may share in."""
    await connection.execute(
        f"do $$ begin while pg_current_xact_id() < '{until - 1}'::xid8 loop commit; end loop; end $$"
    )


def _folder_for_replica(primary: Path) -> tuple[Path, os.stat_result]:
    """A new folder of the primary's account, beside its data."""
    folder, account = primary.with_name("replica"), primary.stat()
    folder.mkdir(mode=0o700)
    os.chown(folder, account.st_uid, account.st_gid)
    return folder, account
