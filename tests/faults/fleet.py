"""The server processes of a run: each has a role of its own in Postgres, by which its connections are told apart."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy.engine import make_url

from tests.faults.recorder import Place
from tests.harness import Server, free_port
from tests.proxy import Proxy, target_of, through

STEPS = Path(__file__).parent / "steps"
SEQUENCER_LOCK = (1953064044, 1)
# A traceback ends with a line that is not indented and names the error; those of Postgres's have more lines. Of a
# chain, the last one counts.
TRACEBACK = re.compile(
    r"^Traceback .*\n(?:[ +|].*\n|\n)*+(.*)(?!(?:\n(?!Traceback ).+)*\n\n(?:The above|During))(?:\n|\Z)", re.MULTILINE
)
EXPECTED_IN_LOGS = (
    # A step's COMMIT was on its way when the connection broke: the client is told to look.
    "CommitUnknownError",
)


@dataclass
class Process:
    """One server process, now and after each restart: its ports and its role stay."""

    name: str
    role: str
    database_url: str  # by way of `back`
    port: int
    settings: dict[str, str]
    front: Proxy  # between its clients and it
    back: Proxy  # between it and Postgres
    server: Server | None = None
    logs: list[str] = field(default_factory=list)
    is_up: bool = False
    is_troubled: bool = False  # by a fault that is not mended yet

    @property
    def place(self) -> Place:
        return Place(self.name, f"127.0.0.1:{self.front.port}")

    async def start(self) -> None:
        self.server = Server(self.database_url, STEPS, self.settings, self.port)
        await self.server.wait_until_ready()
        self.is_up = True

    async def kill(self) -> None:
        """kill -9."""
        server, self.server = self.server, None
        if server is not None:
            self.is_up = False
            await server.kill()
            self.logs.append(server.log())

    async def stop(self) -> None:
        """SIGTERM, as an operator does."""
        server, self.server, self.is_up = self.server, None, False
        if server is not None:
            await server.stop()
            self.logs.append(server.log())

    def freeze(self) -> None:
        """SIGSTOP."""
        if self.server is not None:
            self.server.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        if self.server is not None:
            self.server.process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        """All that it wrote, over all its restarts."""
        return "".join([*self.logs, self.server.log() if self.server is not None else ""])

    def trouble(self) -> list[str]:
        """Tracebacks in its logs, and an end that nobody brought about."""
        found = []
        for traceback in TRACEBACK.finditer(_with_tracebacks(self.log())):
            if not any(expected in traceback[1] for expected in EXPECTED_IN_LOGS):
                found.append(f"{self.name} logged {traceback[1]}\n{traceback[0]}")
        if self.server is not None and self.server.process.poll() is not None:
            found.append(f"{self.name} ended by itself with {self.server.process.returncode}")
        return found


def _with_tracebacks(log: str) -> str:
    """A log with the tracebacks of its records as Python prints them."""
    lines = []
    for line in log.splitlines():
        with suppress(ValueError):  # printed by Python itself, or cut short by a kill
            line = json.loads(line).get("exception") or line
        lines.append(line)
    return "\n".join(lines)


class Fleet:
    """All the server processes on one database."""

    def __init__(self, database_url: str, processes: Sequence[Process]) -> None:
        self.database_url = database_url
        self.processes = list(processes)

    @property
    def places(self) -> list[Place]:
        return [process.place for process in self.processes]

    async def ask(self, sql: str, *parameters: object) -> list[Any]:
        """Rows from the database, on a connection of the moment."""
        connection = await asyncpg.connect(self.database_url)
        try:
            return list(await connection.fetch(sql, *parameters))
        finally:
            connection.terminate()

    async def sequencer(self) -> tuple[Process, int] | None:
        """Who holds the sequencer's lock, and its backend's pid; None between two."""
        rows = await self.ask(
            "select a.usename, a.pid from pg_locks l join pg_stat_activity a using (pid) "
            "where l.locktype = 'advisory' and l.granted "
            "and (l.classid::bigint, l.objid::bigint, l.objsubid) = ($1, $2, 2) "
            "and l.database = (select oid from pg_database where datname = current_database())",
            *SEQUENCER_LOCK,
        )
        by_role = {process.role: process for process in self.processes}
        return next(((by_role[row["usename"]], row["pid"]) for row in rows if row["usename"] in by_role), None)

    async def backends(self, role: str) -> list[int]:
        """The pids of a process's connections."""
        rows = await self.ask("select pid from pg_stat_activity where usename = $1 order by pid", role)
        return [row["pid"] for row in rows]

    def trouble(self) -> list[str]:
        return [trouble for process in self.processes for trouble in process.trouble()]


@asynccontextmanager
async def make_fleet(
    server_url: str, database_url: str, count: int, settings: dict[str, str], *, is_narrow: bool
) -> AsyncIterator[Fleet]:
    """`count` started server processes; stopped, and their roles dropped, at the end.

    If `is_narrow`, the network holds little of what a server sends and a client has not taken.
    """
    roles = [f"{make_url(database_url).database}_{number}" for number in range(1, count + 1)]
    await _execute(server_url, *(f'create role "{role}" login superuser' for role in roles))
    try:
        async with AsyncExitStack() as stack:
            processes = []
            for number, role in enumerate(roles, start=1):
                port = free_port()
                front = await stack.enter_async_context(Proxy(("127.0.0.1", port), is_narrow=is_narrow))
                back = await stack.enter_async_context(Proxy(target_of(database_url)))
                url = through(database_url, back, username=role)
                processes.append(Process(f"server {number}", role, url, port, settings, front, back))
            try:
                await asyncio.gather(*(process.start() for process in processes))
                yield Fleet(database_url, processes)
            finally:
                await asyncio.gather(*(process.stop() for process in processes))
    finally:
        await _execute(server_url, *(f'drop role "{role}"' for role in roles))


async def _execute(server_url: str, *statements: str) -> None:
    connection = await asyncpg.connect(server_url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
