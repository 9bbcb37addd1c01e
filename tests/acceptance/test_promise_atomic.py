"""Atomic: subscribers see a commit whole or not at all; a rolled-back step is never seen."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.acceptance.conftest import Run, TwoServers
from tests.harness import Gate, Server, Sql, Subscriber, seen_of

STEPS_AT_ONCE = 8
STEPS_EACH = 5
ROUNDS = 30


def value_of(frame: Any) -> Any:
    return seen_of(frame)[1]["value"]


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (["raise"], "internal_error"),
        (["answer", {"status": 99}], "answer_invalid"),
        (["answer", "text"], "answer_invalid"),
        (["answer", {"status": 200, "headers": {"x": "a\x01b"}}], "answer_invalid"),
        (["answer", {"status": 200, "headers": {"x": "a\x7f"}}], "answer_invalid"),
        (["answer", {"status": 200, "headers": {"x": ["a", "\x0bb"]}}], "answer_invalid"),
        (["answer", {"status": 200, "headers": {"date": "today"}}], "answer_invalid"),
        (["sql", "insert into streams.note (group_id, id, data) values ('', '', '{}')"], "internal_error"),
    ],
)
async def test_a_step_that_fails_is_never_seen(
    here: Server, sql: Sql, group: str, run: Run, ending: list[Any], code: str
) -> None:
    """After an exception, or an answer that can't be sent, neither changes nor events of the step arrive."""
    async with Subscriber.connect(here) as subscriber:
        view = await subscriber.view("note", group)
        answer = await run(
            ["set", "note", group, "a", {"by": "step"}], ["send", "note", group, None, "sent", 1], ending
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, code)
        await sql.execute("insert into streams.note (group_id, id, data) values ($1, 'a', $2)", group, {"by": "sql"})
        await subscriber.until_mark(sql, view)
    assert view.seen == [("create", {"id": "a", "by": "sql"})]


async def test_an_answer_with_nothing_in_it_does_not_end_the_connection(here: Server, group: str, run: Run) -> None:
    """Whatever body a step gives to a status that has none, the client's next request has an answer of its own."""
    async with here.http() as http:
        for status in (205, 204, 304, 205):
            answer = await http.post("/run", json=[["answer", {"status": status, "body": {"a": 1}}]])
            assert (answer.status_code, answer.content) == (status, b"")
        assert (await http.post("/run", json=[["set", "note", group, "a", {}]])).status_code == 200


async def test_a_step_that_fails_at_its_commit_is_never_seen(here: Server, sql: Sql, group: str, run: Run) -> None:
    """A constraint that is checked at COMMIT, after the handler returned, undoes the step's items, too."""
    await sql.execute("create table ledger (id text unique deferrable initially deferred)")
    async with Subscriber.connect(here) as subscriber:
        view = await subscriber.view("note", group)
        answer = await run(
            ["set", "note", group, "a", {}],
            ["send", "note", group, None, "sent", 1],
            ["sql", "insert into ledger values ('same'), ('same')"],
        )
        assert answer.status_code == 500
        await subscriber.until_mark(sql, view)
    assert view.seen == []


async def test_a_step_whose_client_went_away_is_never_seen(
    two_servers: TwoServers, here: Server, sql: Sql, group: str
) -> None:
    """The connection is closed while the step runs: what it wrote and sent is undone."""
    async with Subscriber.connect(here) as subscriber, Gate.closed(two_servers.database_url) as gate:
        view = await subscriber.view("note", group)
        body = json.dumps(
            [
                ["set", "note", group, "a", {"by": "step"}],
                ["send", "note", group, None, "sent", 1],
                ["sql", gate.pass_sql],
            ]
        )
        _, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(f"POST /run HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        await gate.reached()
        writer.close()
        # It waits for the end of the step's transaction, which has the same key, and would fail after a commit.
        await sql.execute("insert into streams.note (group_id, id, data) values ($1, 'a', $2)", group, {"by": "sql"})
        await subscriber.until_mark(sql, view)
    assert view.seen == [("create", {"id": "a", "by": "sql"})]


async def test_a_commit_of_several_items_and_groups_arrives_whole(here: Server, sql: Sql, group: str, run: Run) -> None:
    """Nothing of another commit comes between the frames of one, though many steps write the same items at once."""
    other = f"{group}, the other"

    async def write(value: int) -> None:
        for _ in range(STEPS_EACH):
            answer = await run(
                ["set", "note", group, "a", {"value": value}],
                ["set", "note", group, "b", {"value": value}],
                ["set", "note", other, "c", {"value": value}],
                ["send", "note", group, None, "wrote", {"value": value}],
            )
            assert answer.status_code == 200
            value += STEPS_AT_ONCE

    async with Subscriber.connect(here) as subscriber:
        view = await subscriber.view("note", group)
        await subscriber.view("note", other)
        await asyncio.gather(*(write(number) for number in range(STEPS_AT_ONCE)))
        frames = await subscriber.until_mark(sql, view)
    values = [value_of(frame) for frame in frames]
    commits = [values[place : place + 4] for place in range(0, len(values), 4)]
    assert [set(commit) for commit in commits] == [{commit[0]} for commit in commits]
    assert {commit[0] for commit in commits} == set(range(STEPS_AT_ONCE * STEPS_EACH))


async def test_a_join_never_sees_half_a_commit(here: Server, group: str, run: Run) -> None:
    """Items that every step sets to one value have one value in every snapshot."""
    stop = asyncio.Event()

    async def write() -> None:
        value = 0
        while not stop.is_set():
            value += 1
            await run(*(["set", "note", group, id, {"value": value}] for id in "abcd"))

    await run(*(["set", "note", group, id, {"value": 0}] for id in "abcd"))
    writing = asyncio.create_task(write())
    try:
        for _ in range(ROUNDS):
            async with Subscriber.connect(here) as subscriber:
                view = await subscriber.view("note", group)
                assert len({item["value"] for item in view.items.values()}) == 1
    finally:
        stop.set()
        await writing


async def test_what_was_answered_is_in_the_feed(here: Server, there: Server, group: str, run: Run) -> None:
    """Whoever joins after a step's answer, on whatever server, has its commit; who was there gets it once."""
    async with Subscriber.connect(here) as subscriber:
        view = await subscriber.view("note", group)
        for value in range(ROUNDS):
            await run(["set", "note", group, "a", {"value": value}])
            async with Subscriber.connect(there) as joiner:
                assert (await joiner.view("note", group, "a")).items["a"]["value"] == value
            assert value_of(await subscriber.next()) == value
    assert len(view.seen) == ROUNDS


async def test_what_is_seen_is_committed(here: Server, sql: Sql, group: str, run: Run) -> None:
    """When a frame arrives the table has what it tells, whether the step has answered yet or not."""
    async with Subscriber.connect(here) as subscriber:
        await subscriber.view("note", group)
        for value in range(ROUNDS):
            answering = asyncio.create_task(run(["set", "note", group, "a", {"value": value}]))
            assert value_of(await subscriber.next()) == value
            data = await sql.fetchval("select data from streams.note where group_id = $1", group)
            assert data["value"] == value
            assert (await answering).status_code == 200


async def test_without_a_transaction_each_write_is_seen_at_once(
    two_servers: TwoServers, here: Server, sql: Sql, group: str, run: Run
) -> None:
    """`"transaction": False`: the step still runs, and what it wrote and sent is there; it stays if the step fails."""
    async with Subscriber.connect(here) as subscriber, Gate.closed(two_servers.database_url) as gate:
        view = await subscriber.view("note", group)
        running = asyncio.create_task(
            run(
                ["set", "note", group, "a", {"value": 1}],
                ["send", "note", group, None, "sent", {"value": 2}],
                ["sql", gate.pass_sql],
                ["raise"],
                each=True,
            )
        )
        assert [value_of(await subscriber.next()) for _ in range(2)] == [1, 2]
        assert not running.done()
        await gate.open()
        assert (await running).status_code == 500
        await subscriber.until_mark(sql, view)
    assert view.items == {"a": {"id": "a", "value": 1}}
