"""The epoch: which database history the xids and commit numbers belong to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from tidelog.errors import EpochError
from tidelog.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

EPOCH_STATE = load("epoch_state")
BEGIN_EPOCH = load("begin_epoch")
SERVER = "select pg_postmaster_start_time() || ' ' || oid from pg_database where datname = current_database()"


BEGUN_POLL_SECONDS = 0.02


class NotBegunError(ConnectionError):
    """The feed of a new database has not begun: try again, as when a connection can't be had."""


def known_epoch(epoch: object) -> str:
    """The epoch as clients know it. Raises NotBegunError."""
    if epoch is None:
        raise NotBegunError("no sequencer has worked on this database yet")
    return str(epoch)


@dataclass(frozen=True, slots=True)
class EpochState:
    """Where the log was written, as seen from this server."""

    epoch: UUID | None  # the newest one, none in a database that was never served
    is_foreign: bool  # another cluster's: its xids may repeat
    goes_on: bool  # this is the history that the newest epoch belongs to


async def read_epoch_state(connection: Connection) -> EpochState:
    row = await connection.fetchrow(EPOCH_STATE)
    assert row is not None  # noqa: S101 - a left join from one row
    if row["epoch"] is None:
        return EpochState(None, is_foreign=row["has_log"], goes_on=False)
    is_foreign = row["system_identifier"] != row["log_system_identifier"] or row["log_is_ahead"]
    return EpochState(row["epoch"], is_foreign, goes_on=row["goes_on"] and not is_foreign)


async def until_begun(connection: Connection, seconds: float) -> None:
    """Wait, for so long at most, until a sequencer has begun this history's epoch, if one is to be begun.

    What is told to clients before it has begun would be dated and named as of the history before.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    state = await read_epoch_state(connection)
    while not state.goes_on and not state.is_foreign and loop.time() < until:
        await asyncio.sleep(BEGUN_POLL_SECONDS)
        state = await read_epoch_state(connection)


async def server_of(connection: Connection) -> str:
    """Tells servers apart, and databases that took another's place. In one, what was committed stays."""
    return cast(str, await connection.fetchval(SERVER))


async def enter_epoch(connection: Connection) -> str:
    """Make sure that the numbers go on in the history that they began in, which is answered; for a new sequencer.

    Begins a new epoch on a new timeline (a promoted replica, a restored backup), and in a copy within the cluster:
    xids go on there, but numbers may be given again. Raises EpochError if the log came from another cluster.
    """
    state = await read_epoch_state(connection)
    if state.is_foreign:
        raise EpochError(
            "this database was copied from another cluster (dump and restore): its transaction ids may repeat old "
            "ones, so its log can't be continued as it is. Writes are stored, but not numbered: run `scripts/adopt` "
            "(installed: `tidelog adopt`)"
        )
    if state.goes_on:
        return known_epoch(state.epoch)
    number = await connection.fetchval("select coalesce(max(number), 0) from streams.commit")
    return str(await begin_epoch(connection, number))


async def begin_epoch(connection: Connection, since_number: int) -> UUID:
    """The numbers after `since_number` belong to a new epoch, which is answered."""
    return cast(UUID, await connection.fetchval(BEGIN_EPOCH, since_number))
