"""Waiting until the sequencer has numbered all that was committed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg

POLL_SECONDS = 0.005
# Written after the others, and numbered after them.
MARK = """
with xact as materialized (select pg_current_xact_id() as xid),
mark as (
    insert into streams.bench as item (group_id, id, data) values ('mark', 'mark', jsonb_build_object('n', $1::text))
    on conflict (group_id, id) do update set data = excluded.data
)
select xid::text from xact
"""
NUMBERED = "select exists (select from streams.commit where xid = $1::text::xid8)"


async def wait_until_numbered(connection: asyncpg.Connection[Any]) -> float:
    """Wait until every commit before now has its number; returns the seconds that it took."""
    began = time.perf_counter()
    xid = await connection.fetchval(MARK, str(began))
    while True:
        if await connection.fetchval(NUMBERED, xid):
            return time.perf_counter() - began
        await asyncio.sleep(POLL_SECONDS)
