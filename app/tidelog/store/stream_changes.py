"""What an operator does with a stream of the database: list, rename, drop, convert. Each is one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from tidelog.errors import GrantMissingError, MigrationFailedError, StreamTableError
from tidelog.store.log import LIFT_TRANSACTION_TIMEOUT
from tidelog.store.migration_lock import LOCK_VERSIONS
from tidelog.store.queries import load
from tidelog.store.requirements import check_revision

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any]

LIST_STREAMS = load("list_streams")


class Listed(NamedTuple):
    """A stream of the database."""

    name: str
    table: str
    is_there: bool  # its table
    items: int | None  # about; None: not known yet


async def list_streams(connection: Connection) -> list[Listed]:
    """Those that migrations have made tables for, by name. Raises StreamsNotMigratedError."""
    await check_revision(connection)
    return [Listed(*row) for row in await connection.fetch(LIST_STREAMS)]


async def rename_stream(connection: Connection, old_name: str, new_name: str, new_table: str) -> int:
    """See rename_stream.sql; answers how many items were renamed with it. Raises StreamTableError."""
    async with _changing(connection):
        number: int = await connection.fetchval(
            "select streams.rename_stream($1, $2, $3)", old_name, new_name, new_table
        )
        await connection.execute("select streams.grant_roles()")
    return number


async def drop_stream(connection: Connection, name: str) -> int:
    """See drop_stream.sql; answers how many items were dropped with it. Raises StreamTableError."""
    async with _changing(connection):
        number: int = await connection.fetchval("select streams.drop_stream($1)", name)
    return number


async def convert_keys(connection: Connection, table: str) -> bool:
    """See convert_keys.sql; whether there was something to do. Raises StreamTableError."""
    async with _changing(connection):
        is_done: bool = await connection.fetchval("select streams.convert_keys($1)", table)
    return is_done


@asynccontextmanager
async def _changing(connection: Connection) -> AsyncIterator[None]:
    """A transaction that no migration is beside; the database's errors are ours."""
    await check_revision(connection)
    await connection.execute(LIFT_TRANSACTION_TIMEOUT)
    try:
        async with connection.transaction():
            await connection.execute(LOCK_VERSIONS)
            yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise GrantMissingError(
            f"nothing was changed: {_told(error)}. It takes the owner of the schema streams, or a member of it"
        ) from error
    except asyncpg.LockNotAvailableError as error:
        if "alembic_version" in str(error):
            raise MigrationFailedError("a migration is at work: try again when it has ended") from error
        raise MigrationFailedError(_told(error)) from error
    except asyncpg.PostgresError as error:
        raise StreamTableError(f"nothing was changed: {_told(error)}") from error


def _told(error: asyncpg.PostgresError) -> str:
    is_cascade = isinstance(error, asyncpg.DependentObjectsStillExistError)  # Postgres's hint would drop those, too
    parts = [str(error.args[0]), error.detail, "Drop that first" if is_cascade else error.hint]
    return ". ".join(part.rstrip(".") for part in parts if part)
