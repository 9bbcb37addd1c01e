"""Whether a connection still leads to a server that answers, and that takes writes."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import asyncpg

from tidelog.store.deadline import deadline
from tidelog.store.failure import CONNECTION_ERRORS, is_crowded
from tidelog.store.lent import ANSWER_TIMEOUT_SECONDS, NEVER, Lent
from tidelog.store.queries import load

IS_AT_WORK = load("is_at_work")
# The cheapest answer: a write that is rolled back would leave a dead row, and an xid, for each look. It is "on" also
# while the server is in recovery. That a disk is full is told by the sequencer, which writes.
IS_WRITABLE = "select current_setting('transaction_read_only') = 'off'"

LOOK_SECONDS = 1.0  # between looks at all connections: one timer for all, and none for each statement
CHECK_TIMEOUT_SECONDS = 2.0  # a connection that is under suspicion and answers later is replaced


class Connect(Protocol):
    """Opens a connection of its own."""

    async def __call__(self) -> asyncpg.Connection[Any]: ...


async def is_writable(driver: asyncpg.Connection[Any]) -> bool:
    """Whether it leads to a server that takes writes. Raises TimeoutError and the database's errors."""
    with deadline(driver, CHECK_TIMEOUT_SECONDS):
        return bool(await driver.fetchval(IS_WRITABLE))


async def is_answer_lost(lent: Lent, connect: Connect) -> bool:
    """Whether the answer that is overdue on `lent` will not come.

    If the server is at work on it (a lock is waited for, a commit for its standby), it gets more time. Keep-alives
    alone don't find a connection dead whose other end is a proxy that lives.
    """
    due_at = lent.due_at
    if await _is_at_work(lent.driver.get_server_pid(), connect):
        if lent.due_at == due_at:
            lent.expect_answer()
        return False
    await asyncio.sleep(LOOK_SECONDS)  # it may have been on its way
    return lent.due_at == due_at != NEVER


async def _is_at_work(pid: int, connect: Connect) -> bool:
    """By a connection of its own: if none can be had, then the database is away for the others, too."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            connection = await connect()
            try:
                return bool(await connection.fetchval(IS_AT_WORK, pid))
            finally:
                connection.terminate()
    except CONNECTION_ERRORS as error:
        return is_crowded(error)  # then the server lives, and has no room for the question
