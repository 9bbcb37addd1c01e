"""Ordered: commits in the order of their numbers, for everybody; an item's changes as the database made them."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from tests.acceptance.conftest import Run, TwoServers
from tests.conftest import StartServer
from tests.harness import Frame, Server, Sql, StepsFolder, Subscriber, connect_sql, seen_of

WRITERS = 4
COMMITS_EACH = 25
EVENT_SIZE = 500_000  # far more than a NOTIFY carries
BEHIND_SECONDS = 20  # the log may be ahead of the clock by 30: see number_commits.sql

PUT = """
insert into streams.note as item (group_id, id, data) values ($1, $2, $3)
on conflict (group_id, id) do update set data = excluded.data
"""


def put(connection: Any, group: str, id: str, value: Any) -> Any:
    """Create or replace a note, as a program that knows nothing of Tidelog."""
    return connection.execute(PUT, group, id, {"value": value})


def values(frames: list[Frame]) -> list[Any]:
    """(id or event type, value) of each frame."""
    return [
        (frame["id"], frame["event"]["data"]["value"]) if frame["event"]["type"] != "event" else seen_of(frame)
        for frame in frames
    ]


async def test_two_writers_of_one_item_come_in_the_databases_order(
    here: Server, sql: Sql, other_sql: Sql, group: str
) -> None:
    """The transaction that began, and wrote something else, first but wrote the item last comes last."""
    async with Subscriber.connect(here) as subscriber:
        view = await subscriber.view("note", group)
        async with sql.transaction():
            await put(sql, group, "another", "first")
            async with other_sql.transaction():
                await put(other_sql, group, "item", 1)
            await put(sql, group, "item", 2)
        frames = await subscriber.until_mark(sql, view)
    assert values(frames) == [("item", 1), ("another", "first"), ("item", 2)]


async def test_a_writer_that_waited_for_a_row_comes_after_the_one_it_waited_for(
    here: Server, sql: Sql, other_sql: Sql, group: str
) -> None:
    """Both updates of a row, one of them blocked by the other, arrive in the order in which they were made."""
    await put(sql, group, "item", 0)
    async with Subscriber.connect(here) as subscriber:
        view = await subscriber.view("note", group)
        async with sql.transaction():
            await put(sql, group, "item", 1)
            blocked = asyncio.create_task(put(other_sql, group, "item", 2))
            await put(sql, group, "another", "last")
        await blocked
        frames = await subscriber.until_mark(sql, view)
    assert [value for id, value in values(frames) if id == "item"] == [1, 2]


async def test_a_late_commit_is_not_lost(here: Server, sql: Sql, other_sql: Sql, group: str) -> None:
    """A transaction that wrote first and commits after others were delivered comes then, and has a later number."""
    async with Subscriber.connect(here) as subscriber:
        view = await subscriber.view("note", group)
        async with sql.transaction():
            await put(sql, group, "late", "drawn earlier")
            for value in range(3):
                await put(other_sql, group, "early", value)
                assert values([await subscriber.next()]) == [("early", value)]
        assert values([await subscriber.next()]) == [("late", "drawn earlier")]
        await subscriber.until_mark(sql, view)
    positions = await sql.fetch(
        "select id, seq from streams.note_history where group_id = $1 order by position, seq", group
    )
    assert [row["id"] for row in positions] == ["early", "early", "early", "late"]
    assert positions[-1]["seq"] < positions[0]["seq"]


async def test_a_commits_changes_come_in_the_order_of_its_writes_and_its_events_behind_them(
    here: Server, sql: Sql, group: str, run: Run
) -> None:
    """An item's place in its commit is that of its last write; events follow, in their own order."""
    async with Subscriber.connect(here) as subscriber:
        view = await subscriber.view("note", group)
        await run(
            ["send", "note", group, None, "one", 1],
            ["set", "note", group, "a", {"value": 1}],
            ["set", "note", group, "b", {"value": 2}],
            ["send", "note", group, "b", "two", 2],
            ["set", "note", group, "a", {"value": 3}],
        )
        frames = await subscriber.until_mark(sql, view)
    assert values(frames) == [("b", 2), ("a", 3), ("one", 1), ("two", 2)]


@pytest.mark.parametrize("size", [1, EVENT_SIZE])
async def test_an_event_keeps_its_place_among_commits_on_every_server(
    here: Server, there: Server, sql: Sql, group: str, run: Run, size: int
) -> None:
    """Each step sets and sends: its event arrives whole, behind its change and before the next step's."""
    async with Subscriber.connect(here) as near, Subscriber.connect(there) as far:
        views = [await near.view("note", group), await far.view("note", group)]
        for value in range(4):
            await run(
                ["set", "note", group, "a", {"value": value}],
                ["send", "note", group, None, "sent", str(value) * size],
            )
        expected = [told for value in range(4) for told in (("a", value), ("sent", str(value) * size))]
        for subscriber, view in zip((near, far), views, strict=True):
            assert values(await subscriber.until_mark(sql, view)) == expected


async def test_an_event_for_an_item_reaches_the_item_and_its_group(
    here: Server, sql: Sql, group: str, run: Run
) -> None:
    """With an id it is for that item's subscribers and the group's; without one for the group's alone."""
    async with Subscriber.connect(here) as of_group, Subscriber.connect(here) as of_item:
        group_view = await of_group.view("note", group)
        item_view = await of_item.view("note", group, "a")
        await run(
            ["send", "note", group, "a", "to a", 1],
            ["send", "note", group, "b", "to b", 2],
            ["send", "note", group, None, "to all", 3],
        )
        assert values(await of_group.until_mark(sql, group_view)) == [("to a", 1), ("to b", 2), ("to all", 3)]
        assert values(await of_item.until_mark(sql, item_view)) == [("to a", 1)]


async def test_everybody_sees_the_same_order(two_servers: TwoServers, sql: Sql, group: str, run: Run) -> None:
    """Subscribers on two servers get the same frames, with the same times, in the same order, which is history's."""

    async def write(seed: int) -> None:
        random_ = random.Random(seed)  # noqa: S311 - which item is next
        for value in range(COMMITS_EACH):
            ids = random_.sample("abcde", 2)
            answer = await run(*(["set", "note", group, id, {"value": [seed, value]}] for id in ids))
            assert answer.status_code in (200, 503)  # a deadlock: rolled back, and not seen

    async with (
        Subscriber.connect(two_servers.here) as first,
        Subscriber.connect(two_servers.here) as second,
        Subscriber.connect(two_servers.there) as third,
    ):
        subscribers = (first, second, third)
        views = [await subscriber.view("note", group) for subscriber in subscribers]
        await asyncio.gather(*map(write, range(WRITERS)))
        for subscriber, view in zip(subscribers, views, strict=True):
            await subscriber.until_mark(sql, view)
    frames = [view.frames[1:] for view in views]
    assert frames[0] == frames[1] == frames[2]
    history = await sql.fetch(
        "select id, data -> 'value' as value from streams.note_history where group_id = $1 order by position, seq",
        group,
    )
    assert values(frames[0]) == [(row["id"], row["value"]) for row in history]
    assert len(history) >= COMMITS_EACH * 2


async def test_after_a_restart_times_rise_and_positions_go_on(
    start_server: StartServer, database_url: str, steps: StepsFolder
) -> None:
    """A server that was stopped and started: no client takes its frames for old, no number is given twice or left out.

    Also where the machine's clock is some seconds behind the last commit's time.
    """
    steps.write("note_stream.py", 'config = {"name": "note", "schema": {}}')
    server = await start_server(steps.path)
    sql = await connect_sql(database_url)
    try:
        async with Subscriber.connect(server) as subscriber:
            view = await subscriber.view("note", "g")
            for value in range(3):
                await put(sql, "g", "a", value)
            await subscriber.until_mark(sql, view)
        await server.stop()
        await put(sql, "g", "a", "written while no server ran")
        # As if the clock had been set back meanwhile.
        await sql.execute("update streams.commit set at = at + make_interval(secs => $1)", BEHIND_SECONDS)
        last_time = view.frames[-1]["timestamp"] + BEHIND_SECONDS * 1000
        server = await start_server(steps.path)
        async with Subscriber.connect(server) as subscriber:
            view = await subscriber.view("note", "g")
            await put(sql, "g", "a", "after")
            await subscriber.until_mark(sql, view)
        times = [frame["timestamp"] for frame in view.frames]
        assert last_time < times[0] < times[-1]
        assert view.items["a"]["value"] == "after"
        history = await sql.fetch("select position, at, data from streams.note_history order by position")
        assert [row["data"]["value"] for row in history] == [0, 1, 2, "written while no server ran", "after"]
        assert sorted(history, key=lambda row: row["at"]) == history
        numbers = [row["number"] for row in await sql.fetch("select number from streams.commit order by number")]
        assert numbers == list(range(1, len(numbers) + 1))
    finally:
        await sql.close()
