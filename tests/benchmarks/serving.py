"""Our server, run as the README says, for whatever is measured of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.benchmarks.ground import Ground
from tests.harness import Server, free_port, uvicorn_command

OUR_APP = "app.main:app"


@asynccontextmanager
async def serving(
    ground: Ground, *, app: str = OUR_APP, steps: Mapping[str, str] | None = None, **settings: str
) -> AsyncIterator[Server]:
    """A server of the stream `bench` and of these steps, on a database of its own, ready to be used."""
    postgres = await ground.postgres()
    folder = ground.steps_folder(steps or {})
    async with postgres.database(folder) as url, run_server(url, folder, app=app, **settings) as server:
        yield server


@asynccontextmanager
async def run_server(
    database_url: str, steps_dir: Path | None = None, *, app: str, **settings: str
) -> AsyncIterator[Server]:
    """An ASGI application, served in the way that our own is, by uvicorn with the same options.

    How that is, is in one place for tests and benchmarks: `tests.harness.uvicorn_command`.
    """
    port = free_port()
    server = Server(database_url, steps_dir, settings, port, uvicorn_command(port, app=app), is_fresh=True)
    try:
        await server.wait_until_ready()
        yield server
    finally:
        await server.stop()
