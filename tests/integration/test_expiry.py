"""Items that expire are deleted by a commit like any other: in the log, in order, and told to subscribers."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.harness import connect_sql
from tidelog import Stream, TidelogConfig
from tidelog.migrate import upgrade
from tidelog.numbering.expiry import ITEMS_AT_ONCE
from tidelog.settings import Settings

AT_ONCE = 1e-6  # seconds
WAIT_SECONDS = 60


@pytest.fixture
def tidelog_config() -> TidelogConfig:
    return TidelogConfig(streams=[Stream("job"), Stream("brief", ttl=AT_ONCE)])


@pytest.fixture
async def sql(tidelog_database_url: str) -> Any:
    connection = await connect_sql(tidelog_database_url)
    yield connection
    await connection.close()


async def test_subscribers_see_an_item_expire(streams: Any, recorder: Any, settled: Any) -> None:
    """As the delete that follows; an item that was set again in time stays."""
    async with recorder("job", "g") as seen:
        await streams.job.set("g", "stays", {"n": 1}, ttl=3600)
        await streams.job.set("g", "goes", {"n": 1}, ttl=AT_ONCE)
        await seen.until(
            lambda seen: any(change.op == "delete" for change in seen.changes), timeout_seconds=WAIT_SECONDS
        )
        assert [(change.op, change.id) for change in seen.changes] == [
            ("create", "stays"),
            ("create", "goes"),
            ("delete", "goes"),
        ]
        await streams.job.set("g", "goes", {"n": 2})
        await settled()
        assert set(seen.items) == {"stays", "goes"}


async def test_a_streams_own_time_to_live_holds_for_every_writer(
    streams: Any, recorder: Any, sql: asyncpg.Connection[Any]
) -> None:
    """Also for SQL that knows nothing of it; unless a step says otherwise."""
    async with recorder("brief", "g") as seen:
        await sql.execute("insert into streams.brief (group_id, id, data) values ('g', 'sql', '{}')")
        await streams.brief.set("g", "step", {})
        await streams.brief.update("g", "updated", [{"type": "increment", "path": "n"}])
        await streams.brief.set("g", "kept", {}, ttl=0)
        await seen.until(
            lambda seen: sum(change.op == "delete" for change in seen.changes) == 3, timeout_seconds=WAIT_SECONDS
        )
    assert [item["id"] for item in await streams.brief.get_group("g")] == ["kept"]


async def test_what_expires_goes_in_bounded_commits(
    client: Any, tidelog_database_url: str, sql: asyncpg.Connection[Any]
) -> None:
    """However much it is; and an item that somebody has locked is not waited for."""
    other = await connect_sql(tidelog_database_url)
    async with other.transaction():
        await sql.execute("insert into streams.job (group_id, id, data) values ('held', '1', '{}')")
        await other.execute("select from streams.job for update")
        await sql.execute(
            "insert into streams.job (group_id, id, data, expires_at) "
            "select 'g', n, '{}', now() from generate_series(1, $1) n",
            2 * ITEMS_AT_ONCE + 1,
        )
        await other.execute("update streams.job set expires_at = now() where group_id = 'held'")
        async with asyncio.timeout(WAIT_SECONDS):
            while await sql.fetchval("select count(*) from streams.job where group_id = 'g'"):
                pass  # each look is a round trip to the server
        await other.execute("update streams.job set expires_at = null where group_id = 'held'")
    sizes = await sql.fetch("select count(*) from streams.change where op = 'delete' group by xid order by min(seq)")
    assert [row["count"] for row in sizes] == [ITEMS_AT_ONCE, ITEMS_AT_ONCE, 1]
    await other.close()


async def test_a_changed_time_to_live_is_migrated(tidelog_database_url: str, sql: asyncpg.Connection[Any]) -> None:
    """It holds for what is set from then on; items that are there keep theirs."""
    settings = Settings(database_url=tidelog_database_url)
    write = "insert into streams.brief (group_id, id, data) values ('g', $1, '{}') returning expires_at - now()"
    for name, ttl in (("day", 86_400), ("never", None), ("hour", 3600.5)):
        streams = [Stream("job"), Stream("brief", ttl=ttl)]
        await asyncio.to_thread(upgrade, settings, streams)
        left = await sql.fetchval(write, name)
        assert (left is None) if ttl is None else (ttl <= left.total_seconds() < ttl + WAIT_SECONDS)
    assert await sql.fetchval("select count(*) from streams.brief where expires_at is null") == 1
