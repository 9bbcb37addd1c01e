"""What all sides stand on: sizes, a Postgres of the benchmark's own, databases in it, its CPU time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from tests.benchmarks.cpu import cpu_seconds
from tests.harness import database_url_of, migrate, processes_below
from tidelog.postgres.embedded import EmbeddedPostgres
from tidelog.postgres.os_user import BIN

BENCH_STREAM = """
config = {
    "name": "bench",
    "schema": {"type": "object", "properties": {"n": {"type": "string"}, "text": {"type": "string"}}},
    "baseConfig": {"storageType": "default"},
}
"""


@dataclass(frozen=True)
class Scale:
    """How much is measured: in full, or only enough to see that all of it runs."""

    quick: bool

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full


class Postgres:
    """An embedded server with default settings (so every commit is flushed), nobody else's."""

    def __init__(self, folder: Path, server_url: str) -> None:
        self.folder = folder
        self.server_url = server_url
        self._serial = itertools.count(1)

    @asynccontextmanager
    async def database(self, steps_dir: Path | None = None) -> AsyncIterator[str]:
        """The URL of a new database; migrated for the streams in `steps_dir` if that is given."""
        name = f"bench_{next(self._serial)}"
        await self.execute(self.server_url, f"create database {name}")
        url = database_url_of(self.server_url, name)
        try:
            if steps_dir is not None:
                await asyncio.to_thread(migrate, url, steps_dir)
            yield url
        finally:
            await self.execute(self.server_url, f"drop database {name} with (force)")

    async def execute(self, url: str, *statements: str) -> None:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def checkpoint(self) -> None:
        """Write out what is dirty, so that a round doesn't pay for the one before."""
        await self.execute(self.server_url, "checkpoint")

    async def version(self) -> str:
        connection = await asyncpg.connect(self.server_url)
        try:
            return str(await connection.fetchval("show server_version"))
        finally:
            await connection.close()

    def cpu_seconds(self) -> float:
        """What all of its processes have used since they began, those that ended included."""
        return cpu_seconds(processes_below(self.folder))

    @staticmethod
    def program(name: str) -> str:
        """One of the programs that came with it."""
        return str(BIN / name)


class Ground:
    """Made once for a run. `folder` is a temporary one, short enough for Unix sockets."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.folder = folder
        self.scale = scale
        self._stack = AsyncExitStack()
        self._postgres: Postgres | None = None
        self._serial = itertools.count(1)

    async def __aenter__(self) -> Ground:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def postgres(self) -> Postgres:
        """The server, started when it is first asked for."""
        if self._postgres is None:
            embedded = EmbeddedPostgres(self.folder / "data")
            url = await asyncio.to_thread(embedded.start)
            self._stack.push_async_callback(asyncio.to_thread, embedded.stop)
            self._postgres = Postgres(self.folder / "data", url)
        return self._postgres

    def steps_folder(self, files: Mapping[str, str]) -> Path:
        """A new folder with the stream `bench` and the files given, by name without `.py`."""
        folder = self.new_folder("steps")
        for name, text in {"bench_stream": BENCH_STREAM, **files}.items():
            (folder / f"{name}.py").write_text(text)
        return folder

    def new_folder(self, name: str) -> Path:
        folder = self.folder / f"{name}-{next(self._serial)}"
        folder.mkdir()
        return folder
