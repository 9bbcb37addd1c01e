"""Whose history the log is: dumps restored here and elsewhere, adoption, copies within a cluster."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy.engine import make_url

from tests.harness import Databases, Server, Subscriber, database_url_of, free_port, migrate
from tests.integration.restore_fixtures import (
    HISTORY,
    UNNUMBERED_CHANGES,
    adopt,
    cluster,
    replica_of,
    run,
    spend_xids,
)
from tests.integration.sequencer_fixtures import WAIT_SECONDS, Log, connected, sequencing
from tidelog.store.epoch import enter_epoch
from tidelog.store.log import FEED_SETTINGS, Numbering
from tidelog.store.partitions import Partition
from tidelog.store.retention import remove_commits

ERA = 2**48  # the log's transactions of an era
XIDS_AHEAD = 3000  # the old cluster's xids are beyond the new one's by so many
FROM_THE_FUTURE = (
    "insert into streams.change (xid, stream, group_id, id, op, version, data) values "
    "((pg_snapshot_xmax(pg_current_snapshot())::text::bigint + 1000000)::text::xid8, "
    "'chatMessage', 'g', 'future', 'create', 1, '{}')"
)
EPOCHS = "select since_number from streams.epoch order by began_at"

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Source:
    """An old database, as it was when it was dumped."""

    url: str
    folder: Path  # its dumps
    history: Rows
    leftovers: Rows  # changes without a number, in order: seq and what follows it in the history
    items: Rows
    xids: list[int]  # of the numbered commits, in order


async def rows(connection: asyncpg.Connection[Any], sql: str) -> Rows:
    return [tuple(row) for row in await connection.fetch(sql)]


ITEMS = "select * from streams.chat_message order by group_id, id"


@pytest.fixture(scope="module")
def old_cluster() -> Iterator[Databases]:
    with cluster() as databases:
        yield databases


@pytest.fixture(scope="module")
async def new_cluster() -> AsyncIterator[Databases]:
    """With the roles that the dumps name."""
    with cluster() as databases:
        async with connected(databases.server_url) as sql:
            for role in ("owner", "server", "writer", "reader"):
                await sql.execute(f"create role tidelog_{role}")
        yield databases


@pytest.fixture(scope="module")
async def source(old_cluster: Databases, new_cluster: Databases) -> AsyncIterator[Source]:
    """Numbered commits, of one change and of several, and leftovers; with xids that the new cluster has yet to give."""
    url = await old_cluster.create()
    await asyncio.to_thread(migrate, url)
    async with connected(url) as old, connected(new_cluster.server_url) as new:
        await spend_xids(old, await new.fetchval("select pg_current_xact_id()") + XIDS_AHEAD)
    made = await make_source(url)
    yield made
    shutil.rmtree(made.folder)


async def make_source(url: str, pg_dump: str = "pg_dump") -> Source:
    """Fill a database, and dump it."""
    folder = Path(tempfile.mkdtemp(prefix="tidelog-dump-"))
    async with Log.open(url) as log:
        async with connected(url, **FEED_SETTINGS) as connection, connected(url) as long:
            await enter_epoch(connection)
            numbering = await Numbering.load(connection)
            await long.execute("begin")
            await log.write("long", connection=long)
            for i in range(30):
                await log.write(f"{i}")
                await log.write(f"{i} more", 5)
                await log.writer.execute(
                    "update streams.chat_message set data = data || $1 where id = '0/1'", f'{{"i": {i}}}'
                )
                await log.writer.execute("delete from streams.chat_message where id = $1", f"{i} more/1")
                await log.writer.execute("select streams.send('chatMessage', 'g', null, 'typing', '{}')")
                await numbering.advance(connection)
            await long.execute("commit")  # its xid is the lowest, and it is left over
            await log.write("left over", 3)
            await log.writer.execute("update streams.chat_message set data = data || '{\"i\": -1}' where id = '0/1'")
        made = Source(
            url,
            folder,
            await rows(log.observer, HISTORY),
            await rows(log.observer, UNNUMBERED_CHANGES),
            await rows(log.observer, ITEMS),
            [xid for _, xid in await log.commits()],
        )
    await run(pg_dump, "--format=custom", f"--file={folder}/custom", url)
    await run(pg_dump, "--format=plain", f"--file={folder}/plain", url)
    await run(pg_dump, "--format=plain", "--inserts", f"--file={folder}/inserts", url)
    return made


@pytest.fixture
async def restored(source: Source, new_cluster: Databases) -> AsyncIterator[str]:
    """The dump, restored into the other cluster."""
    url = await new_cluster.create()
    await run("pg_restore", "--exit-on-error", f"--dbname={url}", f"{source.folder}/custom")
    yield url
    await new_cluster.drop(url)


def without_position(history: Rows) -> Rows:
    return [row[2:] for row in history]


async def check_adopted(log: Log, source: Source) -> None:
    """The history is as it was; the leftovers follow, in their order; and nothing was logged by the restore."""
    history = await rows(log.observer, HISTORY)
    assert history[: len(source.history)] == source.history
    following = without_position(history[len(source.history) :])
    assert following[: len(source.leftovers)] == source.leftovers
    await log.check()


PSQL = ("psql", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null", "--dbname={url}")
PG_RESTORE = ("pg_restore", "--exit-on-error", "--dbname={url}")


@pytest.mark.parametrize(
    "restore",
    [
        pytest.param((*PG_RESTORE, "{folder}/custom"), id="custom"),
        pytest.param((*PSQL, "--file={folder}/plain"), id="plain"),
        pytest.param((*PG_RESTORE, "--single-transaction", "{folder}/custom"), id="single", marks=pytest.mark.slow),
        pytest.param((*PSQL, "--file={folder}/inserts"), id="inserts", marks=pytest.mark.slow),
    ],
)
async def test_adoption_keeps_the_history(source: Source, new_cluster: Databases, restore: tuple[str, ...]) -> None:
    """However it was restored: a dump makes triggers after the data, so that the restore logs nothing."""
    url = await new_cluster.create()
    await run(*(argument.format(url=url, folder=source.folder) for argument in restore))
    async with Log.open(url) as log:
        assert await rows(log.observer, HISTORY) == source.history
        done = await adopt(url)
        assert done.returncode == 0, done.stderr
        await check_adopted(log, source)
        assert await rows(log.observer, ITEMS) == source.items
        xids = [xid for _, xid in await log.commits()]
        assert xids == [
            *source.xids,
            *(ERA + n for n in range(1, 4)),
            2 * ERA,
        ]  # and one of the new era, without changes
        with sequencing(url):
            assert await log.write_numbered("new") == len(source.xids) + 5
        assert (await log.commits())[-1][1] > 2 * ERA
        assert await rows(log.observer, EPOCHS) == [(0,), (len(source.xids),)]
    await new_cluster.drop(url)


async def test_a_dump_of_another_postgres_is_adopted(database_url: str, new_cluster: Databases) -> None:
    """Of an older version, too, as the tests' own server may be; dumped by the program that came with it."""
    its_own = shutil.which("pg_dump") if "TIDELOG_DATABASE_URL" in os.environ else None
    source = await make_source(database_url, its_own or "pg_dump")
    url = await new_cluster.create()
    await run("pg_restore", "--exit-on-error", f"--dbname={url}", f"{source.folder}/custom")
    shutil.rmtree(source.folder)
    assert (await adopt(url)).returncode == 0
    async with Log.open(url) as log:
        with sequencing(url):
            await log.write_numbered("after")
        await check_adopted(log, source)
        assert [row for row in await rows(log.observer, ITEMS) if row[1] != "after/1"] == source.items
    await new_cluster.drop(url)


async def test_it_is_refused_until_it_is_adopted(source: Source, restored: str) -> None:
    """Writes are stored meanwhile, readiness says what to do, and after that nothing need be restarted."""
    server = Server(restored, None, {}, free_port())
    try:
        async with Log.open(restored) as log, server.http() as http:
            answer = await http_until(http, 503)
            assert answer["checks"]["sequencer"] == "epoch_foreign"
            assert "scripts/adopt" in server.log()
            await log.write("meanwhile")
            done = await adopt(restored)
            assert done.returncode == 0, done.stderr
            await http_until(http, 200)
            await log.write_numbered("after")
            async with Subscriber.connect(server) as subscriber:
                await subscriber.join("chatMessage", "g")
                items = (await subscriber.next())["event"]["data"]
                assert len(items) == len(source.items) + 2
                await log.write("live")
                assert (await subscriber.next())["event"]["data"]["id"] == "live/1"
            await check_adopted(log, source)
    finally:
        await server.stop()


async def http_until(http: httpx.AsyncClient, status: int) -> dict[str, Any]:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                answer = await http.get("/health/ready")
            except httpx.TransportError:
                continue
            if answer.status_code == status and "not started" not in answer.text:
                return dict(answer.json())


async def test_xids_that_repeat_are_told_apart(source: Source, new_cluster: Databases, restored: str) -> None:
    """What was written here before the adoption, under xids of the old log, comes after all of the old."""
    async with Log.open(restored) as log:
        await spend_xids(log.writer, source.xids[5])
        meanwhile = []
        while not meanwhile or meanwhile[-1] <= source.xids[10]:
            await log.writer.execute("begin; savepoint s")
            meanwhile.append(await log.write(f"meanwhile{len(meanwhile)}"))
            await log.writer.execute("release s; commit")
        assert set(meanwhile) & set(source.xids)
        assert (await adopt(restored)).returncode == 0
        await check_adopted(log, source)
        history = await rows(log.observer, HISTORY)
        new = history[len(source.history) + len(source.leftovers) :]
        assert [row[5] for row in new] == [f"meanwhile{i}/1" for i in range(len(meanwhile))]

        # And those that are still to be given out here.
        with sequencing(restored):
            await log.write_numbered("after")
            await spend_xids(log.writer, source.xids[20])
            later = []
            while not later or later[-1] <= source.xids[-1]:
                later.append(await log.write(f"later{len(later)}"))
            assert set(later) & set(source.xids)
            for xid in later:
                await log.until_numbered(xid)
        await check_adopted(log, source)


async def test_a_session_with_the_sequencers_lock_that_is_none_doesn_t_stop_the_adoption(restored: str) -> None:
    """It is ended, as by sequencers; anybody can take the lock."""
    async with connected(restored) as stranger:
        await stranger.execute("select pg_advisory_lock(1953064044, 1)")
        done = await adopt(restored)
    assert done.returncode == 0, done.stderr


async def test_writers_on_their_way_are_waited_for_or_come_later(restored: str) -> None:
    """A transaction that has written is numbered by the adoption; one that has only begun, after it."""
    async with Log.open(restored) as log, connected(restored) as halfway, connected(restored) as begun:
        await begun.execute("begin; select pg_current_xact_id()")
        await halfway.execute("begin")
        await log.write("halfway", connection=halfway)
        adopting = asyncio.ensure_future(adopt(restored))
        waits = "select exists (select from pg_locks where not granted and relation = 'streams.change'::regclass)"
        while not await log.observer.fetchval(waits):
            assert not adopting.done(), await adopting
        await halfway.execute("commit")
        done = await adopting
        assert done.returncode == 0, done.stderr
        position = "select position from streams.chat_message_history where id = $1"
        head = (await log.commits())[-1][0]
        assert await log.observer.fetchval(position, "halfway/1") == head - 1
        xid = await log.write("begun", connection=begun)
        await begun.execute("commit")
        with sequencing(restored):
            assert await log.until_numbered(xid) == head + 1
        await log.check()


async def test_adoption_is_done_once(restored: str, database_url: str, databases: Databases) -> None:
    """Again, or where it is not needed, it changes nothing, and says so; that is no failure."""
    assert (await adopt(restored)).returncode == 0
    async with connected(restored) as connection:
        before = await rows(connection, "select * from streams.commit order by number")
        done = await adopt(restored)
        assert done.returncode == 0
        assert "nothing to do" in done.stdout
        assert await rows(connection, "select * from streams.commit order by number") == before
    with sequencing(database_url):  # a healthy sequencer is not disturbed
        done = await adopt(database_url)
    assert done.returncode == 0 and "nothing to do" in done.stdout
    empty = await databases.create()
    done = await adopt(empty)
    await databases.drop(empty)
    assert done.returncode == 1 and "no Tidelog tables" in done.stderr


async def test_a_log_from_the_future_is_foreign(database_url: str) -> None:
    """Also in a database that has an epoch of its own: xids that this server never gave out tell it."""
    async with Log.open(database_url) as log:
        await log.writer.execute(FROM_THE_FUTURE)
        with pytest.raises(Exception, match="scripts/adopt"):
            await enter_epoch(log.writer)
        assert (await adopt(database_url)).returncode == 0
        with sequencing(database_url):
            assert await log.write_numbered("new") == 3


async def test_what_retention_removed_is_no_leftover(database_url: str) -> None:
    """Changes of removed commits that wait for their partition to be dropped, also if older transactions were open."""
    async with (
        Log.open(database_url) as log,
        connected(database_url, **FEED_SETTINGS) as connection,
        connected(database_url) as long,
    ):
        numbering = await Numbering.load(connection)
        await long.execute("begin; select pg_current_xact_id()")
        for id in ("removed", "kept"):
            await log.write(id)
            await numbering.advance(connection)
        everywhere = [Partition(0, 2**63 - 1, timedelta(0))]
        await remove_commits(connection, 0, older_than=timedelta(seconds=-60), commits_max=1, left_to=everywhere)
        await log.write("left over", connection=long)
        await long.execute("commit")
        await log.writer.execute(FROM_THE_FUTURE)
        assert (await adopt(database_url)).returncode == 0
        history = [(row[0], row[5]) for row in await rows(log.observer, HISTORY)]
        assert history == [(2, "kept/1"), (3, "left over/1"), (4, "future")]


async def test_a_dump_restored_in_its_own_cluster_goes_on_in_a_new_epoch(
    source: Source, old_cluster: Databases
) -> None:
    """Its xids are good there; but numbers after the dump's may have been given before, to other commits."""
    url = await old_cluster.create()
    await run("pg_restore", "--exit-on-error", f"--dbname={url}", f"{source.folder}/custom")
    async with Log.open(url) as log:
        with sequencing(url):
            await log.write_numbered("new")
        await check_adopted(log, source)
        assert await rows(log.observer, EPOCHS) == [(0,), (len(source.xids),)]
    await old_cluster.drop(url)


async def test_the_epoch_stays_while_the_history_does(database_url: str) -> None:
    """Sequencers come and go; the clone of a template, which this database is, began one epoch of its own."""
    async with Log.open(database_url) as log:
        for i in range(3):
            with sequencing(database_url):
                await log.write_numbered(f"{i}")
        assert await rows(log.observer, EPOCHS) == [(0,), (0,)]


@pytest.mark.slow
async def test_a_promoted_replica_goes_on_in_a_new_epoch() -> None:
    """What it had received is numbered once; its sequencer, there before, begins when it is promoted."""
    with cluster() as primary:
        url = await primary.create()
        await asyncio.to_thread(migrate, url)
        async with replica_of(primary) as replica:
            replica_url = database_url_of(replica.url, str(make_url(url).database))
            async with Log.open(url) as log:
                with sequencing(url):
                    for i in range(20):
                        await log.write_numbered(f"{i}")
                history = await rows(log.observer, HISTORY)
                leftovers = [await log.write("left over 1"), await log.write("left over 2", 3)]
                await replica.until_replayed(await log.observer.fetchval("select pg_current_wal_lsn()::text"))
            with sequencing(replica_url):
                await replica.promote()
                async with Log.open(replica_url) as log:
                    assert [await log.until_numbered(xid) for xid in leftovers] == [21, 22]
                    assert await log.write_numbered("after") == 23
                    assert (await rows(log.observer, HISTORY))[:20] == history
                    assert await rows(log.observer, EPOCHS) == [(0,), (20,)]
                    timelines = await rows(log.observer, "select timeline from streams.epoch order by began_at")
                    assert timelines == [(1,), (2,)]
                    await log.check()
