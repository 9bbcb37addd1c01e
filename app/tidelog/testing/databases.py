"""Databases for tests: made and dropped on one server, cloned from templates. Knows nothing of pytest.

They carry the name of the run that made them, as several runs may share a server. What a killed run has left there,
the next one drops: a run that lives has a session of its name (Databases.run).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
from sqlalchemy.engine import make_url

from tidelog.store.connecting import first_connection

TIMEOUT_SECONDS = 120  # of a statement that makes or drops a database, on a machine with other things to do

# In the names of what a server keeps when a run is killed: pids come again, in containers soon.
RUN = f"{os.getpid()}_{secrets.token_hex(3)}"
PREFIX = "tidelog_tests_"  # of what other runs may drop, once this run's session is gone
KEPT_PREFIX = "tidelog_test_"  # of what is made without such a session
_NAME = re.compile(rf"({PREFIX}\d+_[0-9a-f]{{6}})_\d+")

_serial = itertools.count(1)


def database_url_of(server_url: str, database: str) -> str:
    """The URL of another database on the same server."""
    return make_url(server_url).set(database=database).render_as_string(hide_password=False)


def name_of(url: str) -> str:
    """The name of the database at `url`."""
    name = make_url(url).database
    if not name:
        raise ValueError("the URL names no database")
    return name


class Databases:
    """Makes and drops databases on one server. `settings` are each database's own (ALTER DATABASE ... SET)."""

    def __init__(self, server_url: str, **settings: str) -> None:
        self.server_url = server_url
        self._settings = settings
        self._prefix = KEPT_PREFIX
        self._strategy = ""
        self._loop: asyncio.AbstractEventLoop | None = None  # of the run's session
        self._idle: asyncpg.Connection[asyncpg.Record] | None = None  # that session, while nobody is at it

    def new_url(self) -> str:
        """The URL of a database that there is not yet."""
        return database_url_of(self.server_url, f"{self._prefix}{RUN}_{next(_serial)}")

    async def create(self, url: str | None = None, *, template: str | None = None) -> str:
        """A new database, at `url` if that is given, a copy of the database `template`; returns its URL."""
        url = url or self.new_url()
        name = name_of(url)
        try:
            await self._execute(
                f'create database "{name}"' + (f' template "{template}"{self._strategy}' if template else "")
            )
        except asyncpg.InsufficientPrivilegeError as error:
            error.add_note("Tests make databases of their own: alter role ... createdb")
            raise
        for setting, value in self._settings.items():
            await self._execute(f"alter database \"{name}\" set {setting} = '{value}'")
        return url

    async def drop(self, url: str) -> None:
        """Drop the database at `url`, whoever uses it, if it is there."""
        await self._execute(f'drop database if exists "{name_of(url)}" with (force)')

    async def close_to_all(self, url: str) -> None:
        """Have nobody connect to the database at `url` any more: a template that somebody uses can't be cloned."""
        await self._execute(f'alter database "{name_of(url)}" allow_connections false')
        await self._execute(
            f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name_of(url)}'"  # noqa: S608
        )

    async def replace(self, url: str, other_url: str) -> None:
        """Have the other database be what is found at `url`, and drop what was, for all its sessions."""
        await self._execute(f'alter database "{name_of(url)}" allow_connections false')
        await self.drop(url)
        await self._execute(f'alter database "{name_of(other_url)}" rename to "{name_of(url)}"')

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """While this run makes databases: shows to others that it lives, and drops what killed runs have left.

        Raises DatabaseUrlError and DatabaseUnreachableError.
        """
        alive = await first_connection(self.server_url, application_name=f"{PREFIX}{RUN}", idle_session_timeout="0")
        try:
            await self._drop_abandoned(alive)
            self._prefix = PREFIX
            if await alive.fetchval("show fsync") == "off":  # then it is the cheaper one
                self._strategy = " strategy file_copy"
            self._loop, self._idle = asyncio.get_running_loop(), alive
            yield
        finally:
            self._prefix = KEPT_PREFIX
            self._idle = None
            await alive.close()

    async def _drop_abandoned(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        # In this order: a run shows that it lives before it makes its first database.
        names = [row[0] for row in await connection.fetch("select datname from pg_database")]
        sessions = await connection.fetch("select application_name, datname from pg_stat_activity")
        living, used = {row[0] for row in sessions}, {row[1] for row in sessions}
        for name in names:
            found = _NAME.fullmatch(name)
            if found is not None and found[1] not in living and name not in used:
                with suppress(asyncpg.PostgresError):  # somebody else's, or dropped by another run
                    await connection.execute(f'drop database "{name}"')

    async def _execute(self, sql: str) -> None:
        async with self._session() as connection, asyncio.timeout(TIMEOUT_SECONDS):
            # Postgres itself waits 5 s for a session to leave that has ended, or that it has told to end.
            while True:
                with suppress(asyncpg.ObjectInUseError):
                    await connection.execute(sql)
                    return

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """The run's, if nobody is at it and it is this loop's; else one of its own. (To begin one takes 3 ms.)"""
        kept, self._idle = self._idle, None
        if kept is None or kept.is_closed() or self._loop is not asyncio.get_running_loop():
            self._idle = kept
            connection = await asyncpg.connect(self.server_url)
            try:
                yield connection
            finally:
                await connection.close()
        else:
            try:
                yield kept
            finally:
                self._idle = kept
