"""What may be in the feed's way on a database that others use, too, for as long as a run lasts."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.faults.history import Effect, Transaction
from tests.faults.sql_writer import CONNECTION_LOST, transaction_id
from tests.harness import Databases

# The first two interrupt steps, too, which then fail: they are more than a step waits for others on a slow machine.
SETTINGS = {
    "statement_timeout": "20s",
    "lock_timeout": "15s",
    "idle_session_timeout": "3s",
    "idle_in_transaction_session_timeout": "3s",
    "default_transaction_isolation": "serializable",
}
OWN_SETTINGS = dict.fromkeys(
    ("statement_timeout", "lock_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout"), "0"
)
HELD = ("ledger", "g0", "held")  # an item that nobody else writes
PREPARED = "tidelog_faults"


async def set_limits(database_url: str) -> None:
    """Give the database settings that a session which must not be interrupted has to override."""
    connection = await asyncpg.connect(database_url)
    try:
        for name, value in SETTINGS.items():
            await connection.execute(f"alter database {await _own_name(connection)} set {name} = '{value}'")
    finally:
        await connection.close()


class Hindrances:
    """Open transactions; `end` them before the end of the run."""

    def __init__(self, held: asyncpg.Connection, xid: int) -> None:
        self._held = held
        self._xid = xid
        self._is_over = False

    async def end(self) -> Transaction:
        """Commit the one that wrote to a stream when the run began; returns what it did."""
        stream, group, id = HELD
        effects = [Effect("set", stream, group, id, HELD[2])]
        try:
            await self._held.execute("commit")
            return Transaction("held", self._xid, "committed", time.monotonic_ns(), effects)
        except CONNECTION_LOST:
            return Transaction("held", self._xid, "unknown", None, effects)


@asynccontextmanager
async def open_transactions(server_url: str, database_url: str) -> AsyncIterator[Hindrances]:
    """One that wrote to a stream, one in another database, and, where Postgres is set up for it, a prepared one."""
    databases = Databases(server_url)
    elsewhere_url = await databases.create()
    elsewhere = await asyncpg.connect(elsewhere_url)
    held = await asyncpg.connect(database_url, server_settings=OWN_SETTINGS)
    is_prepared = False
    try:
        is_prepared = await _prepare(database_url)
        await elsewhere.execute("begin")
        await transaction_id(elsewhere)
        await held.execute("begin isolation level read committed")
        stream, group, id = HELD
        await held.execute(
            f"insert into streams.{stream} (group_id, id, data) values ($1, $2, $3::jsonb)",
            *(group, id, json.dumps({"stamp": id})),
        )
        yield Hindrances(held, await transaction_id(held))
    finally:
        held.terminate()
        elsewhere.terminate()
        await databases.drop(elsewhere_url)
        if is_prepared:
            await _finish_prepared(database_url)


async def _prepare(database_url: str) -> bool:
    connection = await asyncpg.connect(database_url)
    try:
        if await connection.fetchval("show max_prepared_transactions") == "0":
            return False
        await connection.execute("create table aside (n int)")
        await connection.execute("begin; insert into aside values (1)")
        await connection.execute(f"prepare transaction '{PREPARED}'")
        return True
    finally:
        await connection.close()


async def _finish_prepared(database_url: str) -> None:
    """A database with a prepared transaction can't be dropped."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(f"rollback prepared '{PREPARED}'")
    finally:
        await connection.close()


async def _own_name(connection: asyncpg.Connection) -> str:
    return str(await connection.fetchval("select quote_ident(current_database())"))
