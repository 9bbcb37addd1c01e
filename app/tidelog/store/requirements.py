"""What Tidelog needs of a Postgres, a database and a role, looked at before anything is begun."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import asyncpg
from alembic.script import ScriptDirectory

from tidelog.errors import GrantMissingError, ServerUnfitError, StreamsNewerError, StreamsNotMigratedError
from tidelog.store.encoding import check_encoding_of
from tidelog.store.failure import is_lost
from tidelog.store.indexes import what_indexes_lack
from tidelog.store.queries import load
from tidelog.store.revisions import alembic_config
from tidelog.store.stream_tables import EXAMINE_STREAMS, LACKING_PARTS, MIGRATE, parts_of

if TYPE_CHECKING:
    from tidelog.model.stream import Stream

    Connection = asyncpg.Connection[Any]

logger = logging.getLogger("tidelog.database")

VERSION_MIN = 15  # of Postgres
MISSING_FUNCTIONS = load("missing_functions")
MISSING_GRANTS = load("missing_grants")
MIGRATED = load("migrated")
HISTORY = "select pg_walfile_name(pg_current_wal_lsn()), (select system_identifier from pg_control_system())"
MIGRATION = "`scripts/migrate` (installed: `tidelog migrate`)"
SCHEMAS = "select name, schema::text from streams.stream where name = any ($1::text[])"


async def check_server(connection: Connection) -> None:
    """Raise ServerUnfitError, EncodingError or GrantMissingError: what no migration mends."""
    major = connection.get_server_version().major
    if major < VERSION_MIN:
        raise ServerUnfitError(f"the server is Postgres {major}, and Tidelog needs {VERSION_MIN} or later")
    await check_encoding_of(connection)
    _refuse([row["statement"] for row in await connection.fetch(MISSING_FUNCTIONS)])
    if await connection.fetchval("select pg_is_in_recovery()"):
        return  # readiness says that it takes no writes; its history is asked for when it is promoted
    try:
        await connection.fetchrow(HISTORY)
    except asyncpg.PostgresError as error:
        if is_lost(error):
            raise
        raise ServerUnfitError(
            f"the server refuses pg_walfile_name(pg_current_wal_lsn()) or pg_control_system(): {error}. By these "
            "Tidelog tells a promoted, restored or copied database from the one that it numbered; without them "
            "positions could be given twice. A service that leaves them out (Amazon Aurora may) can't be used"
        ) from error


async def check_grants(connection: Connection, streams: Sequence[Stream]) -> None:
    """Raise GrantMissingError if the role lacks what serving takes; warn of what steps can't write."""
    for statement in await _grants_to_write(connection, streams):
        logger.warning("steps can't write a stream, or context.state: `%s;`", statement)


async def _grants_to_write(connection: Connection, streams: Sequence[Stream]) -> list[str]:
    """Those that steps need and sockets don't, as far as they are missing. Without the others: GrantMissingError."""
    rows = await connection.fetch(MISSING_GRANTS, [stream.table for stream in streams])
    _refuse([row["statement"] for row in rows if row["is_vital"]])
    return [row["statement"] for row in rows]


async def check_revision(connection: Connection) -> None:
    """Raise StreamsNotMigratedError or StreamsNewerError, or GrantMissingError if that can't be seen."""
    outdated = await _what_the_core_lacks(connection)
    if outdated:
        raise StreamsNotMigratedError(f"{outdated}: {MIGRATE}")


async def check_not_newer(connection: Connection) -> None:
    """Raise StreamsNewerError: a migration of ours can't go on from there."""
    await _what_the_core_lacks(connection)


async def is_to_be_migrated(connection: Connection, streams: Sequence[Stream]) -> bool:
    """Whether a migration would change anything. A role that owns nothing serves where it would not.

    Raises StreamsNotMigratedError if it would and this role may not, StreamsNewerError and GrantMissingError.
    """
    reasons = [await _what_the_core_lacks(connection)]
    if reasons == [None]:
        await _grants_to_write(connection, streams)
        reasons = await _what_streams_lack(connection, streams)
    found = [reason for reason in reasons if reason]
    if not found:
        return False
    row = await _migrated(connection)
    if not row["may_migrate"]:
        who = (
            f"is not {row['owner']}, who owns the schema streams, nor a member of it: run {MIGRATION} as "
            f"{row['owner']} or a member of it"
            if row["has_schema"]
            else f"may not make a schema: `grant create on database {row['database']} to {row['role']};`, or run "
            f"{MIGRATION} as somebody who may"
        )
        raise StreamsNotMigratedError(f"{'; '.join(found)}; and the role {row['role']} {who}")
    return True


async def _what_the_core_lacks(connection: Connection) -> str | None:
    row = await _migrated(connection)
    if not row["has_version"]:
        return "this database has no Tidelog tables yet"
    if not row["may_read"]:
        await _grants_to_write(connection, ())
    there = await connection.fetchval("select version_num from streams.alembic_version")
    head, known = _revisions()
    if there is None:
        return "this database has no Tidelog tables yet"
    if there not in known:
        raise StreamsNewerError(
            f"this database's Tidelog tables are of revision {there}, and this server knows them up to {head}: start "
            "the release that migrated it, or a later one"
        )
    if there != head:
        return f"this database's Tidelog tables are older than this server (revision {there}, not {head})"
    return None


async def _what_streams_lack(connection: Connection, streams: Sequence[Stream]) -> list[str | None]:
    names = [stream.name for stream in streams]
    rows = await connection.fetch(EXAMINE_STREAMS, names, [stream.table for stream in streams])
    lacks: list[str | None] = [
        f"stream {name}: {trouble}" for name, _, severity, trouble, _ in rows if severity != "warn"
    ]
    if not lacks:
        lacks += [lacking for _, lacking in await connection.fetch(LACKING_PARTS, *parts_of(streams)) if lacking]
    stored = {name: json.loads(schema) for name, schema in await connection.fetch(SCHEMAS, names)}
    changed = [name for name in names if name not in stored]
    for stream in streams:
        if stream.name in stored and stored[stream.name] != json.loads(json.dumps(stream.schema.document)):
            changed.append(stream.name)
    if changed and not lacks:
        if (await _migrated(connection))["may_migrate"]:
            lacks.append(f"new schemas of {', '.join(changed)}")
        else:  # steps check by their own files: the stored one is for others to read
            logger.warning("streams.stream has older schemas of %s: %s", ", ".join(changed), MIGRATE)
    if not lacks and (indexed := await what_indexes_lack(connection, streams)):
        if (await _migrated(connection))["may_migrate"]:
            lacks.append(f"indexes of {', '.join(indexed)}")
        else:  # it serves without them
            logger.warning("the indexes of %s are not as declared: %s", ", ".join(indexed), MIGRATE)
    return lacks


async def _migrated(connection: Connection) -> asyncpg.Record:
    row: asyncpg.Record | None = await connection.fetchrow(MIGRATED)
    assert row is not None  # noqa: S101 - a left join from one row
    return row


def _refuse(statements: Sequence[str]) -> None:
    if statements:
        raise GrantMissingError(
            f"the role may not do what serving takes; as the owner of it all run `{'; '.join(statements)};`"
        )


@cache
def _revisions() -> tuple[str, frozenset[str]]:
    """The newest revision that this code knows, and all."""
    script = ScriptDirectory.from_config(alembic_config())
    return str(script.get_current_head()), frozenset(one.revision for one in script.walk_revisions())
