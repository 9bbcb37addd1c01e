"""What the database has and no file declares any more: streams, and steps that jobs wait for. They may be renamed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import asyncpg

from tidelog.store.queries import load

if TYPE_CHECKING:
    from tidelog.model.stream import Stream

    Connection = asyncpg.Connection[Any]

LOOK_SECONDS = 2.0  # at a table that may be locked: nothing waits for this longer
OTHERS = """
    select name, format('streams.%I', table_name) as full_name
    from streams.stream
    where name <> all ($1::text[]) and to_regclass(format('streams.%I', table_name)) is not null
    order by name
"""

STEPS_UNKNOWN = load("steps_unknown")
STREAM_STEPS_UNKNOWN = "select step from streams.step_stream where step <> all ($1::text[]) order by step limit 10"

logger = logging.getLogger("tidelog.streams")


async def warn_of_undeclared(connection: Connection, streams: Iterable[Stream]) -> None:
    """Warn of streams that have items and aren't among `streams`. A table that can't be read now is left out."""
    for name, full_name in await connection.fetch(OTHERS, [stream.name for stream in streams]):
        look = f"select exists (select from {full_name})"  # noqa: S608 - quoted by Postgres
        try:
            has_items = await connection.fetchval(look, timeout=LOOK_SECONDS)
        except (asyncpg.PostgresError, TimeoutError):
            continue
        if has_items:
            logger.warning(
                "%s has items, but no file declares the stream %s, so nobody can subscribe to it here. If it was "
                "renamed, run `tidelog rename-stream %s NEW` (`tidelog drop-stream %s` if it isn't wanted any more); "
                "if the new one has items already, move these: `insert into streams.NEW (group_id, id, data) select "
                "group_id, id, data from %s; delete from %s;`. If another application serves it, all is well",
                full_name,
                name,
                name,
                name,
                full_name,
                full_name,
            )


async def warn_of_unknown_steps(connection: Connection, steps: Iterable[str]) -> None:
    """Warn of steps that jobs wait for, or are made for, and that aren't among `steps`, the names of those that react.

    Unless the role may not look.
    """
    with suppress(asyncpg.InsufficientPrivilegeError):
        for (name,) in await connection.fetch(STEPS_UNKNOWN, list(steps)):
            logger.warning(
                "jobs wait for the step %s, which no file here has: `tidelog jobs list` shows them. If it was renamed, "
                "`update streams.step_job set step = 'NEW' where step = '%s'`. If it is left out as broken, or another "
                "application runs it, they wait for that",
                name,
                name.replace("'", "''"),
            )
        for (name,) in await connection.fetch(STREAM_STEPS_UNKNOWN, list(steps)):
            logger.warning(
                "changes go on to be made jobs for the stream step %s, which no file here has. If it was removed or "
                "renamed, `delete from streams.step_stream where step = '%s'`; else they wait for whoever has it",
                name,
                name.replace("'", "''"),
            )
