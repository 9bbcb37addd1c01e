"""Waiting for the feed of this process to have told everything that is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from tidelog.composition import Tidelog
from tidelog.errors import NotSettledError
from tidelog.queue.changes import CONSUMER
from tidelog.testing.recording import Recording

POLL_SECONDS = 0.005
# Transactions that are visible and have no number yet, as texts: what was committed after this is not waited for.
# (Changes whose commit was removed, and which wait for their partition to be dropped, had one.)
UNNUMBERED = """
    select coalesce(array_agg(distinct logged.xid::text), '{}')
    from (select xid from streams.change union all select xid from streams.event) as logged
    left join (select xid, snapshot from streams.commit order by number desc limit 1) as head on true
    where not coalesce(streams.was_numbered(logged.xid, head.xid, head.snapshot), false)
"""
LEFT_OF = """
    select count(*) from unnest($1::text[]) as x where not exists (select from streams.commit where xid = x::xid8)
"""
# Jobs, and changes that are no jobs of stream steps yet: in one statement, as the one makes the other.
WORK_LEFT = """
    select exists (select from streams.step_job where step = any ($1::text[])) or exists (
        select from streams.change c left join streams.commit n on n.xid = c.xid
        left join (select xid, snapshot from streams.commit order by number desc limit 1) as head on true
        where c.stream = any ($2::text[]) and case
            when n.number is null then not coalesce(streams.was_numbered(c.xid, head.xid, head.snapshot), false)
            else n.number > (select position from streams.consumer where name = $3)
        end
    )
"""
HEAD = "select coalesce(max(number), 0) from streams.commit"


async def until_numbered(connection: asyncpg.Connection[Any]) -> int:
    """Wait until all that was committed before this call has its number; returns a number that none of it is past."""
    unnumbered = await connection.fetchval(UNNUMBERED)
    while await connection.fetchval(LEFT_OF, unnumbered):  # noqa: ASYNC110 - nobody signals it
        await asyncio.sleep(POLL_SECONDS)
    head: int = await connection.fetchval(HEAD)
    return head


async def until_handled(connection: asyncpg.Connection[Any], tidelog: Tidelog) -> int:
    """Wait until nothing is left to steps that react, and what they wrote has its numbers; returns the last."""
    steps, streams = tidelog.workers.steps, tidelog.changes.streams
    while steps and await connection.fetchval(WORK_LEFT, steps, streams, CONSUMER):  # noqa: ASYNC110 - nobody signals it
        await asyncio.sleep(POLL_SECONDS)
    return await until_numbered(connection)


async def settle(tidelog: Tidelog, recordings: Sequence[Recording], timeout_seconds: float) -> None:
    """Wait until all that was committed before this call is numbered, events and changes are handled by the steps that
    react to them, or parked, and the subscribers have all of it.

    Raises NotSettledError.
    """
    waiting_for = "for commits to be numbered, and jobs to be done (select * from streams.step_job)"
    try:
        async with asyncio.timeout(timeout_seconds):
            connection = await tidelog.database.connect()
            try:
                head = await until_handled(connection, tidelog)
            finally:
                await connection.close()
            waiting_for = f"for the feed of this process to reach commit {head}"
            while tidelog.position < head:  # noqa: ASYNC110 - nobody signals it outside of the feed
                await asyncio.sleep(POLL_SECONDS)
            for recording in recordings:
                waiting_for = f"for the recorder of {recording} to have everything up to commit {head}"
                await recording.caught_up(head)
    except TimeoutError:
        raise NotSettledError(
            f"not settled: waited {timeout_seconds:g} s {waiting_for}; the feed is at commit {tidelog.position}, and "
            f"its parts say: {await _parts(tidelog)}"
        ) from None


async def _parts(tidelog: Tidelog) -> str:
    checks = await tidelog.checks()
    return ", ".join(f"{part}: {state}" for part, state in checks.items() if state != "ok") or "ok"
