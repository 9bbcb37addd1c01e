"""History is SQL: every change of every item, in order, in a view beside the stream's table."""

from __future__ import annotations

from typing import Any

from tests.acceptance.conftest import Run
from tests.harness import Server, Sql, Subscriber, seen_of

HISTORY = """
select position, at, seq, op, group_id, id, version, data, xid
from streams.note_history where group_id = $1 order by position, seq
"""
AS_OF = """
select id, data
from (
    select distinct on (id) id, op, data from streams.note_history
    where group_id = $1 and position <= $2
    order by id, position desc, seq desc
) as last_change
where op <> 'delete'
"""


async def history_of(here: Server, sql: Sql, group: str) -> list[Any]:
    """The group's history once all of it has numbers, which a snapshot waits for."""
    async with Subscriber.connect(here) as subscriber:
        await subscriber.view("note", group)
    return [dict(row) for row in await sql.fetch(HISTORY, group)]


async def test_history_has_every_change_in_order(here: Server, sql: Sql, group: str, run: Run) -> None:
    """Creates, updates with their versions, deletes with the item as it was; a step's changes have one position."""
    await run(["set", "note", group, "a", {"n": 1}], ["set", "note", group, "a", {"n": 2}])
    await sql.execute("update streams.note set data = '{\"n\": 3}' where group_id = $1", group)
    await run(["delete", "note", group, "a"], ["set", "note", group, "b", {"n": 4}])
    history = await history_of(here, sql, group)
    assert [(row["op"], row["id"], row["version"], row["data"]["n"]) for row in history] == [
        ("create", "a", 1, 1),
        ("update", "a", 2, 2),
        ("update", "a", 3, 3),
        ("delete", "a", 3, 3),
        ("create", "b", 1, 4),
    ]
    first, second, third = sorted({(row["position"], row["at"], row["xid"]) for row in history})
    assert [(row["position"], row["at"], row["xid"]) for row in history] == [first, first, second, third, third]
    assert first[1] < second[1] < third[1]


async def test_history_has_nothing_that_was_undone_and_no_events(here: Server, sql: Sql, group: str, run: Run) -> None:
    """A failed step, an update that changes nothing and an event leave no trace in it."""
    await run(["set", "note", group, "a", {"n": 1}], ["raise"])
    await run(["set", "note", group, "a", {"n": 2}], ["send", "note", group, None, "sent", 1])
    await run(["set", "note", group, "a", {"n": 2}])
    assert [row["data"]["n"] for row in await history_of(here, sql, group)] == [2]


async def test_history_is_what_subscribers_saw(here: Server, sql: Sql, group: str, run: Run) -> None:
    """Where each commit touches an item once, the frames are history's rows, in its order, with its times."""
    async with Subscriber.connect(here) as subscriber:
        view = await subscriber.view("note", group)
        for n in range(5):
            await run(*(["set", "note", group, id, {"n": n}] for id in "abc"))
            await run(["delete", "note", group, "b"])
        await subscriber.until_mark(sql, view)
    history = await history_of(here, sql, group)
    assert view.seen == [(row["op"], row["data"]) for row in history]
    times = [round(frame["timestamp"] * 1000) for frame in view.frames[1:]]
    assert times == [round(row["at"].timestamp() * 1e6) for row in history]


async def test_any_past_state_can_be_asked_for(here: Server, sql: Sql, group: str, run: Run) -> None:
    """The last change of each item up to a position is the group as it was then; up to the end it is the table."""
    async with Subscriber.connect(here) as subscriber:
        view = await subscriber.view("note", group)
        states = []
        for operations in (
            [["set", "note", group, "a", {"n": 1}], ["set", "note", group, "b", {"n": 1}]],
            [["set", "note", group, "a", {"n": 2}], ["delete", "note", group, "b"]],
            [["set", "note", group, "b", {"n": 3}]],
        ):
            await run(*operations)
            await subscriber.until_mark(sql, view)
            states.append(dict(view.items))
    positions = sorted({row["position"] for row in await history_of(here, sql, group)})
    for position, state in zip(positions, states, strict=True):
        assert {row["id"]: row["data"] for row in await sql.fetch(AS_OF, group, position)} == state
    table = await sql.fetch("select id, data from streams.note where group_id = $1", group)
    assert {row["id"]: row["data"] for row in table} == states[-1]


async def test_each_stream_has_a_history_of_its_own(here: Server, sql: Sql, group: str, run: Run) -> None:
    """Items of two streams with the same keys, written by one step, share a position and nothing else."""
    await run(["set", "note", group, "a", {"n": 1}], ["set", "task", group, "a", {"n": 2}])
    (note,) = await history_of(here, sql, group)
    (task,) = await sql.fetch("select position, data from streams.task_history where group_id = $1", group)
    assert (note["data"]["n"], task["data"]["n"]) == (1, 2)
    assert note["position"] == task["position"]


async def test_an_item_that_moves_is_in_both_histories(here: Server, sql: Sql, group: str, run: Run) -> None:
    """Moved to another group by SQL: it was deleted there and created here, at one position."""
    await run(["set", "note", group, "a", {"n": 1}])
    await sql.execute("update streams.note set group_id = $1 || ' moved' where group_id = $1", group)
    left, came = await history_of(here, sql, group), await history_of(here, sql, f"{group} moved")
    assert [row["op"] for row in left] == ["create", "delete"]
    assert [row["op"] for row in came] == ["create"]
    assert left[-1]["position"] == came[0]["position"]


async def test_positions_have_no_gaps(here: Server, sql: Sql, group: str, run: Run) -> None:
    """Failed steps take no number: commit follows commit."""
    async with Subscriber.connect(here) as subscriber:
        view = await subscriber.view("note", group)
        for n in range(5):
            await run(["set", "note", group, "a", {"n": n}], ["raise"])
            await run(["set", "note", group, "a", {"n": n}])
        frames = await subscriber.until_mark(sql, view)
    assert [seen_of(frame)[1]["n"] for frame in frames] == list(range(5))
    first, *_, last = positions = [row["position"] for row in await history_of(here, sql, group)]
    assert positions == list(range(first, last + 1))
