"""Adopting a log that was written in another cluster, and came here by dump and restore (or pg_upgrade)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from tidelog.errors import AdoptionError
from tidelog.store.encoding import check_encoding_of
from tidelog.store.epoch import begin_epoch, read_epoch_state
from tidelog.store.holders import ADOPTION_NAME, SEQUENCER_LOCK, Holder, end_sessions, read_holders
from tidelog.store.log import LIFT_TRANSACTION_TIMEOUT
from tidelog.store.queries import load

if TYPE_CHECKING:
    from tidelog.store.connecting import Connector

    Connection = asyncpg.Connection[Any]

ADOPT = load("adopt")
ERA = 2**48  # how many transactions the log has a place for in each

# Writers that are half-way are waited for; those who come meanwhile wait behind us, as does the sequencer's lock.
LOCK_TIMEOUT_SECONDS = 30
SETTINGS = {
    "application_name": ADOPTION_NAME,
    "statement_timeout": "0",
    "lock_timeout": f"{LOCK_TIMEOUT_SECONDS}s",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_read_only": "off",
    # Restored tables have no statistics, and what is looked for is little: it is looked up.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}


@dataclass(frozen=True, slots=True)
class Adoption:
    """What was done. The numbers up to `kept` are the old ones; the leftovers have the following."""

    epoch: UUID
    kept: int
    leftover_commits: int
    leftover_changes: int
    events: int


async def adopt(connect: Connector) -> Adoption | None:
    """Do it, all or nothing; None if the log is this cluster's own already.

    Raises AdoptionError if there is no log, writers don't end, or Postgres refuses it; EncodingError.
    """
    connection = await connect(**SETTINGS)
    try:
        await connection.execute(LIFT_TRANSACTION_TIMEOUT)
        await check_encoding_of(connection)
        if await connection.fetchval("select to_regclass('streams.epoch') is null"):
            raise AdoptionError("this database has no Tidelog tables: is it the one that was restored?")
        if await _is_own(connection):  # before a lock is taken that a healthy sequencer holds
            return None
        await _end_strangers(connection)
        async with connection.transaction(isolation="read_committed"):
            return await _adopt(connection)
    except asyncpg.LockNotAvailableError as error:
        holding = [holder for holder in await read_holders(connection, SEQUENCER_LOCK) if holder.granted]
        raise AdoptionError(
            f"a transaction that wrote to a stream, or a sequencer, did not end within {LOCK_TIMEOUT_SECONDS} s; "
            f"nothing was changed. End it (see pg_stat_activity{_who(holding)}) and run this again"
        ) from error
    except asyncpg.PostgresError as error:
        raise AdoptionError(f"Postgres refused it, and nothing was changed: {error}") from error
    finally:
        await connection.close()


async def _adopt(connection: Connection) -> Adoption | None:
    # The sequencer's lock (which that one takes for its session), then the writers': every write goes through it.
    await connection.execute("select pg_advisory_xact_lock(1953064044, 1)")
    await connection.execute("lock table streams.change, streams.event in access exclusive mode")
    if await _is_own(connection):  # another run was faster
        return None
    era: int = await connection.fetchval("select streams.in_log('0')")
    row = await connection.fetchrow(ADOPT, era + ERA, era + 2 * ERA)
    assert row is not None  # noqa: S101 - a select of counts
    await connection.execute("select streams.begin_era($1)", era + 2 * ERA)
    epoch = await begin_epoch(connection, row["kept"])
    return Adoption(epoch, **row)


async def _is_own(connection: Connection) -> bool:
    return not (await read_epoch_state(connection)).is_foreign


async def _end_strangers(connection: Connection) -> None:
    """Anybody can take the sequencer's lock: who has it, or queues for it, and is no sequencer, has no use for it."""
    strangers = [holder for holder in await read_holders(connection, SEQUENCER_LOCK) if not holder.is_sequencer]
    await end_sessions(connection, strangers)


def _who(holding: list[Holder]) -> str:
    return f"; the sequencer's lock is held by {'; '.join(map(str, holding))}" if holding else ""
