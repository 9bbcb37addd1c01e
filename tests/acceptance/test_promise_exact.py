"""Nothing lost, nothing twice: a snapshot is exact at its position, and live goes on from there."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from websockets.exceptions import ConnectionClosed

from tests.acceptance.conftest import Run, TwoServers
from tests.conftest import StartServer
from tests.harness import Server, Sql, StepsFolder, Subscriber, View, connect_sql, eventually

HOT_ITEMS = ("a", "b", "c", "d", "e")
WRITERS = 4
JOINS = 80
COMMITS_BEFORE_TROUBLE = 60

SET = """
insert into streams.note as item (group_id, id, data) values ($1, $2, $3)
on conflict (group_id, id) do update set data = excluded.data
"""
DELETE = "delete from streams.note where group_id = $1 and id = $2"
LAST_N = "create table if not exists last_n (group_id text, id text, n int not null, primary key (group_id, id))"
NEXT_N = """
insert into last_n as last values ($1, $2, 1) on conflict (group_id, id) do update set n = last.n + 1 returning n
"""
NOTE_STREAM = 'config = {"name": "note", "schema": {}}'


class HotGroup:
    """Writers that commit to a few items of one group: create, update, delete, re-create, roll back.

    Every commit gives each item that it touches the item's next number, also the one that it deletes: so a
    client must see the numbers one after the other, and one that is lost or repeated shows.
    """

    def __init__(self, group: str) -> None:
        self._group = group
        self._stopped = False
        self._moved = asyncio.Condition()
        self._commits = 0

    @classmethod
    @asynccontextmanager
    async def at_work(cls, database_url: str, group: str) -> AsyncIterator[HotGroup]:
        hot = cls(group)
        connections = [await connect_sql(database_url) for _ in range(WRITERS)]
        await connections[0].execute(LAST_N)
        writing = [asyncio.create_task(hot._write(sql, random.Random(n))) for n, sql in enumerate(connections)]  # noqa: S311 - repeatable, not secret
        try:
            yield hot
        finally:
            hot._stopped = True
            await asyncio.gather(*writing)
            for sql in connections:
                await sql.close()

    async def commits(self, more: int) -> None:
        """Wait for as many commits more."""
        enough = self._commits + more
        async with self._moved:
            await self._moved.wait_for(lambda: self._commits >= enough)

    async def _write(self, sql: Sql, choose: random.Random) -> None:
        while not self._stopped:
            try:
                async with sql.transaction():
                    for id in choose.sample(HOT_ITEMS, choose.choice((1, 1, 2))):
                        await self._touch(sql, id, choose)
                    if choose.random() < 0.1:
                        raise RuntimeError("rolled back")
            except (asyncpg.DeadlockDetectedError, RuntimeError):
                continue
            async with self._moved:
                self._commits += 1
                self._moved.notify_all()

    async def _touch(self, sql: Sql, id: str, choose: random.Random) -> None:
        n = await sql.fetchval(NEXT_N, self._group, id)
        was_there = await sql.fetchval("select true from streams.note where group_id = $1 and id = $2", self._group, id)
        await sql.execute(SET, self._group, id, {"n": n})
        if was_there and choose.random() < 0.3:
            await sql.execute(DELETE, self._group, id)
            if choose.random() < 0.5:
                await sql.execute(SET, self._group, id, {"n": n})


async def assert_exact(view: View, sql: Sql) -> None:
    """What the client has is the table's, and it got every number of an item after the one before."""
    rows = await sql.fetch("select id, data from streams.note where group_id = $1", view.group)
    assert view.items == {row["id"]: row["data"] for row in rows if view.item in (None, row["id"])}
    sync, *later = view.frames
    found = sync["event"]["data"]
    numbers = {item["id"]: item["n"] for item in (found if view.item is None else [found] if found else [])}
    for frame in later:
        id, n = frame["id"], frame["event"]["data"]["n"]
        assert n == numbers.get(id, n - 1) + 1, frame
        numbers[id] = n


@pytest.mark.parametrize("groups", [1, pytest.param(8, marks=pytest.mark.slow)])
async def test_joins_in_the_midst_of_writes_are_exact(
    two_servers: TwoServers, sql: Sql, group: str, groups: int
) -> None:
    """Join a hot group, or an item of it, at any time: the sync and what follows fold to the table, each write once."""
    for number in range(groups):
        await join_a_hot_group(two_servers, sql, f"{group}, {number}")


async def join_a_hot_group(two_servers: TwoServers, sql: Sql, group: str) -> None:
    """Many joins while it is written to, each followed to the end and found exact."""
    over = asyncio.Event()

    async def join_and_follow(server: Server, item: str | None) -> None:
        async with Subscriber.connect(server) as subscriber:
            view = await subscriber.view("note", group, item)
            await over.wait()
            async with turn:
                await subscriber.until_mark(sql, view)
        async with turn:
            await assert_exact(view, sql)

    turn = asyncio.Lock()  # one at a time may use the connection
    async with asyncio.TaskGroup() as following:
        async with HotGroup.at_work(two_servers.database_url, group) as hot:
            for number in range(JOINS):
                server = two_servers.there if number % 4 == 3 else two_servers.here
                following.create_task(join_and_follow(server, HOT_ITEMS[number % 5] if number % 2 else None))
                await hot.commits(3)
        over.set()


async def test_a_join_while_commits_wait_for_their_numbers_is_exact(
    here: Server, sql: Sql, other_sql: Sql, group: str
) -> None:
    """The table shows commits that the feed has yet to bring: the join waits for them, and gets none of them twice."""
    quiet = f"{group}, a quiet one"
    async with Subscriber.connect(here) as subscriber:
        async with sql.transaction():
            await sql.execute("lock table streams.commit in share mode")  # nothing can be numbered
            for n in range(1, 4):
                await other_sql.execute(SET, group, "a", {"n": n})
            await other_sql.execute(SET, group, "b", {"n": 1})
            await other_sql.execute(DELETE, group, "b")
            view = await subscriber.watch("note", group)
            await subscriber.view("note", quiet)
            assert not view.is_synced
            await other_sql.execute(SET, group, "a", {"n": 4})
        await subscriber.until(lambda _: view.is_synced)
        await other_sql.execute(SET, group, "a", {"n": 5})
        await subscriber.until_mark(sql, view)
    await assert_exact(view, sql)
    assert view.items == {"a": {"id": "a", "n": 5}}


async def test_a_reader_whose_connection_is_lost_has_a_new_one_though_commits_go_on_coming(
    start_server: StartServer, database_url: str, steps: StepsFolder
) -> None:
    """They come to it past the database, so their stream must not hide that it would miss the rest."""
    steps.write("note_stream.py", NOTE_STREAM)
    server = await start_server(steps.path)
    sql = await connect_sql(database_url)
    readers = "from pg_stat_activity where datname = current_database() and application_name = 'tidelog reader'"
    async with Subscriber.connect(server) as subscriber:
        view = await subscriber.view("note", "g")
        lost = await sql.fetchval(f"select pid {readers}")
        await sql.execute(f"select pg_terminate_backend(pid) {readers}")
        async with asyncio.timeout(60):
            n = 0
            while not await sql.fetchval(f"select exists (select {readers} and pid <> $1)", lost):
                n += 1
                await sql.execute(SET, "g", "a", {"n": n})
                await asyncio.sleep(0.05)
        await subscriber.until_mark(sql, view)
    await assert_exact(view, sql)
    await sql.close()


@pytest.mark.parametrize("trouble", ["process killed", "connections lost"])
async def test_the_feed_goes_on_without_its_sequencer(
    start_server: StartServer, database_url: str, steps: StepsFolder, trouble: str
) -> None:
    """The process that numbers commits is killed with -9, or all of the servers' connections are: nothing is lost.

    Whoever is connected to the other process goes on; whoever lost its connection comes back there.
    """
    steps.write("note_stream.py", NOTE_STREAM)
    first = await start_server(steps.path)
    sql = await connect_sql(database_url)
    await eventually(lambda: sql.fetchval("select count(*) from streams.epoch"))  # it is the sequencer
    second = await start_server(steps.path)
    async with Subscriber.connect(first) as lost, Subscriber.connect(second) as kept:
        views = [await lost.view("note", "g"), await kept.view("note", "g")]
        async with HotGroup.at_work(database_url, "g") as hot:
            await hot.commits(COMMITS_BEFORE_TROUBLE)
            if trouble == "process killed":
                await first.kill()
                with pytest.raises(ConnectionClosed):
                    await lost.until(lambda _: False)
            else:
                await sql.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where datname = current_database() and application_name like 'tidelog%'"
                )
                await lost.until_mark(sql, views[0])
            async with Subscriber.connect(second) as back:
                views.append(await back.view("note", "g"))
                await hot.commits(COMMITS_BEFORE_TROUBLE)
                await back.until_mark(sql, views[2])
        await kept.until_mark(sql, views[1])
    await assert_exact(views[1], sql)
    numbers = [row["number"] for row in await sql.fetch("select number from streams.commit order by number")]
    assert numbers == list(range(1, len(numbers) + 1))
    assert (
        await sql.fetchval("select count(*) from streams.change where xid not in (select xid from streams.commit)") == 0
    )
    await sql.close()


@pytest.mark.parametrize(
    ("before", "operations", "seen"),
    [
        (False, ["set"] * 10, ["create"]),
        (True, ["set"] * 10, ["update"]),
        (True, ["delete", "set"], ["update"]),
        (False, ["set", "delete"], []),
        (True, ["set", "delete"], ["delete"]),
        (True, ["delete", "set", "delete"], ["delete"]),
        (False, ["set", "delete", "set"], ["create"]),
        (False, ["delete"], []),
    ],
)
async def test_a_commit_shows_its_net_changes_and_history_keeps_all(
    here: Server, sql: Sql, group: str, run: Run, before: bool, operations: list[str], seen: list[str]
) -> None:
    """An item that a step wrote many times changed once, told against the state before the step."""
    if before:
        await run(["set", "note", group, "a", {"n": 0}])
    told = [[name, "note", group, "a", *([{"n": n}] if name == "set" else [])] for n, name in enumerate(operations, 1)]
    async with Subscriber.connect(here) as subscriber:
        view = await subscriber.view("note", group)
        await run(*told)
        await subscriber.until_mark(sql, view)
    assert [kind for kind, _ in view.seen] == seen
    rows = await sql.fetch("select id, data from streams.note where group_id = $1", group)
    assert view.items == {row["id"]: row["data"] for row in rows}
    written = await sql.fetch("select op from streams.note_history where group_id = $1 order by position, seq", group)
    there_to_write = [name for n, name in enumerate(operations) if before or n or name == "set"]
    assert len(written) == before + len(there_to_write)


async def test_a_missing_item_is_said_to_be_missing(here: Server, sql: Sql, group: str, run: Run) -> None:
    """The sync of an item that isn't there is null; it is followed like any other."""
    async with Subscriber.connect(here) as subscriber:
        view = await subscriber.view("note", group, "a")
        assert view.frames[0]["event"] == {"type": "sync", "data": None}
        await run(["set", "note", group, "a", {"n": 1}], ["set", "note", group, "b", {"n": 1}])
        await run(["delete", "note", group, "a"])
        await subscriber.until_mark(sql, view)
    item = {"id": "a", "n": 1}
    assert view.seen == [("create", item), ("delete", item)]


async def test_a_connection_with_an_item_and_its_group_gets_each_frame_once(
    here: Server, sql: Sql, group: str, run: Run
) -> None:
    """Clients hand an item's frame to both subscriptions themselves; leaving one of them keeps the other."""
    async with Subscriber.connect(here) as subscriber:
        first = await subscriber.view("note", group)
        await subscriber.view("note", group, "a")
        second = await subscriber.join("note", group)
        await subscriber.next()
        await run(["set", "note", group, "a", {"n": 1}])
        assert len(await subscriber.until_mark(sql, first)) == 1
        await subscriber.leave("note", group, None, second)
        await run(["set", "note", group, "a", {"n": 2}])
        assert len(await subscriber.until_mark(sql, first)) == 1
