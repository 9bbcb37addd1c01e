"""A database that has lost commits which were delivered: everybody begins again, and then misses nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from tests.conftest import StartServer, server_starter
from tests.harness import Databases, Frame, Server, Subscriber, View, database_url_of, migrate
from tests.integration.restore_fixtures import cluster, replica_of
from tests.integration.sequencer_fixtures import Log, connected, sequencing
from tests.peer import Peer, fold, peer
from tests.proxy import Proxy, target_of, through

GROUP = "g"
LOST = 4  # commits, of those that were delivered
LARGE = "large"  # a group whose snapshot is more than the network and the server's buffer take
FILL_LARGE = (
    "insert into streams.chat_message (group_id, id, data) "
    f"select '{LARGE}', i::text, jsonb_build_object('pad', repeat(md5(i::text), 1000)) from generate_series(1, 600) i"
)


@dataclass
class Audience:
    """Subscribers of both dialects that have seen the history that will be lost."""

    motia: Subscriber
    views: list[View]
    live: Peer
    on_its_way: Peer

    async def check_that_all_begin_again(self, sql: asyncpg.Connection[Any]) -> None:
        """In the history that is there now, on connections that stay."""
        frames: list[Frame] = []
        while sum(frame["type"] == "live" for frame in frames) < 2:
            frames.append(await self.live.next())
        for n in range(3):
            await write(sql, "after", n)
        while frames[-1].get("changes", [{}])[0].get("data") != {"id": "after", "n": 2}:
            frames.append(await self.live.next())
        resets = [frame for frame in frames if frame["type"] == "reset"]
        assert {frame["reason"] for frame in resets} == {"epoch"}
        assert sorted(frame["subscription"] for frame in resets) == ["group", "item"]
        assert fold(self.of_group(frames)) == await items(sql, GROUP)
        *_, begun = [frame["position"] for frame in frames if frame["type"] == "live"]
        assert [frame["position"] for frame in frames if frame["type"] == "commit"] == [begun + 1, begun + 2, begun + 3]

        for view in self.views:
            # A mark alone could come by the group's subscription, while an item's is still on its way.
            while not any(kind == "sync" for kind, _ in view.seen):
                await self.motia.next()
            await self.motia.until_mark(sql, view)
            expected = await items(sql, GROUP)
            assert view.items == {id: data for id, data in expected.items() if view.item in (None, id)}

        frames = await self.on_its_way.until("live")
        (reset,) = [n for n, frame in enumerate(frames) if frame["type"] == "reset"]
        assert frames[reset]["reason"] == "epoch"
        assert fold(frames[reset:]) == await items(sql, LARGE)

    def of_group(self, frames: Sequence[Frame]) -> list[Frame]:
        """Without the other subscription's snapshot."""
        return [frame for frame in frames if frame.get("subscription") != "item"]


async def items(sql: asyncpg.Connection[Any], group: str) -> dict[str, Any]:
    rows = await sql.fetch("select id, data from streams.chat_message where group_id = $1", group)
    return {row["id"]: json.loads(row["data"]) for row in rows}


async def write(sql: asyncpg.Connection[Any], id: str, n: int) -> None:
    await sql.execute(
        "insert into streams.chat_message (group_id, id, data) values ($1, $2, jsonb_build_object('n', $3::int)) "
        "on conflict (group_id, id) do update set data = excluded.data",
        GROUP,
        id,
        n,
    )


async def fill(url: str) -> None:
    """The history that both have."""
    async with Log.open(url) as log:
        with sequencing(url):
            await log.writer.execute(FILL_LARGE)
            for n in range(3):
                await write(log.writer, "updated", n)
            await write(log.writer, "deleted", 0)
            await log.write_numbered("numbered")


@asynccontextmanager
async def audience(server: Server, sql: asyncpg.Connection[Any]) -> AsyncIterator[Audience]:
    """All of them have got, or are about to get, what is written now."""
    async with AsyncExitStack() as stack:
        motia = await stack.enter_async_context(Subscriber.connect(server))
        views = [await motia.view("chatMessage", GROUP, item) for item in (None, "updated", "deleted")]
        live = await stack.enter_async_context(peer(server))
        for id, item in (("group", None), ("item", "updated")):
            await live.subscribe(id, GROUP, stream="chatMessage", item=item)
            await live.until("live")
        on_its_way = await stack.enter_async_context(peer(server))
        await on_its_way.subscribe("large", LARGE, stream="chatMessage")

        # These are LOST.
        await sql.execute("delete from streams.chat_message where id = 'deleted'")
        await sql.execute(f"update streams.chat_message set data = '{{}}' where group_id = '{LARGE}' and id = '1'")
        await write(sql, "created", 1)
        await write(sql, "updated", -1)
        for view in views:
            await motia.until_mark(sql, view)
        assert set(views[0].items) == {"updated", "numbered/1", "created"}
        while (await live.next()).get("changes", [{}])[0].get("data", {}).get("n") != -1:
            pass
        yield Audience(motia, views, live, on_its_way)


@pytest.mark.parametrize("numbered", [0, LOST, 20], ids="{} numbered meanwhile".format)
async def test_everybody_begins_again(
    databases: Databases, database_url: str, start_server: StartServer, numbered: int
) -> None:
    """Whether the new history is behind what was delivered, as far, or beyond it, when the server learns of it."""
    await fill(database_url)
    other_url = await databases.create(template=str(make_url(database_url).database))
    if numbered:
        async with Log.open(other_url) as log:
            with sequencing(other_url):
                for n in range(numbered - 1):
                    await write(log.writer, "other", n)
                await log.write_numbered("last")
    server = await start_server(is_patient=True)
    async with connected(database_url) as sql, audience(server, sql) as those:
        await databases.replace(database_url, other_url)
        async with connected(database_url) as new:
            await those.check_that_all_begin_again(new)
    assert "has lost commits" in server.log()


@pytest.mark.slow
async def test_a_promoted_replica_that_lacked_commits() -> None:
    """It was down while they were written. The primary lives on, and idle connections still lead to it."""
    with cluster() as primary:
        url = await primary.create()
        await asyncio.to_thread(migrate, url)
        await fill(url)
        async with replica_of(primary) as replica, Proxy(target_of(url)) as proxy, connected(url) as sql:
            await replica.until_replayed(await sql.fetchval("select pg_current_wal_lsn()::text"))
            await replica.control("stop", "-m", "fast")
            async with server_starter(through(url, proxy)) as start:
                server = await start(is_patient=True)
                async with audience(server, sql) as those:
                    await replica.start(alone=True)
                    await replica.promote()
                    replica_url = database_url_of(replica.url, str(make_url(url).database))
                    proxy.move(target_of(replica_url))
                    await sql.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity "
                        "where datname = current_database() "
                        "and application_name in ('tidelog reader', 'tidelog sequencer')"
                    )
                    async with connected(replica_url) as new:
                        await those.check_that_all_begin_again(new)
