"""Who has an advisory lock of ours: any session can take one, so who it is has to be looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from tidelog.store.queries import load

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any]

LOCK_HOLDERS = load("lock_holders")

# The second halves of the keys; the first is 1953064044, "tidl" in ASCII.
SEQUENCER_LOCK = 1
DOORBELL_LOCK = 2
MIGRATION_LOCK = 3
INDEX_LOCK = 4

SEQUENCER_NAME = "tidelog sequencer"
ADOPTION_NAME = "tidelog adopt"
OUR_NAMES = "tidelog"  # all begin with

ENDED_AT_ONCE_MAX = 100  # sessions; each takes a round trip, and the next look ends the others


class Holder(NamedTuple):
    """A session that holds one of the locks, or waits for it."""

    pid: int | None  # None: a prepared transaction, which has no session
    role: str
    application_name: str
    mode: str
    granted: bool
    may_number: bool
    may_migrate: bool

    @property
    def is_sequencer(self) -> bool:
        return self.may_number and self.application_name in (SEQUENCER_NAME, ADOPTION_NAME)

    @property
    def is_migrator(self) -> bool:
        return self.may_migrate and self.application_name.startswith(OUR_NAMES)

    @property
    def is_exclusive(self) -> bool:
        return self.mode == "ExclusiveLock"

    def __str__(self) -> str:
        if self.pid is None:
            return "a prepared transaction"
        return f"pid {self.pid}, role {self.role}, application {self.application_name!r}"


async def read_holders(connection: Connection, key: int) -> list[Holder]:
    """Those of other sessions that hold the lock, then those that wait for it."""
    rows = await connection.fetch(LOCK_HOLDERS, key)
    return [Holder(*row) for row in rows]


async def end_sessions(connection: Connection, holders: list[Holder]) -> bool:
    """Tell their backends to end; False if one may not be ended by this role, or has none."""
    may_all = True
    for holder in holders[:ENDED_AT_ONCE_MAX]:
        try:
            may_all &= holder.pid is not None
            await connection.execute("select pg_terminate_backend($1)", holder.pid)
        except asyncpg.InsufficientPrivilegeError:
            may_all = False
    return may_all
