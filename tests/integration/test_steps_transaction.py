"""A step is one transaction: all of it or nothing, decided before its answer leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ResourceClosedError

from tests.integration.step_fixtures import StepKit, StepTemplate, open_steps, step
from tidelog.errors import StepBusyError
from tidelog.store.engine import Database

OK = {"status": 200, "body": "ok"}


@pytest.fixture
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template) as kit:
        yield kit


async def test_what_a_step_wrote_is_there_when_its_answer_arrives(kit: StepKit) -> None:
    """The commit comes before the response, and set answers the stored item with its id."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        stored = await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        return {"status": 201, "body": stored}

    answer = await kit.post(handler)
    assert answer.status_code == 201
    assert answer.json() == {"text": "hi", "id": "1"}
    assert await kit.ids() == ["1"]


async def test_a_step_sees_its_own_writes(kit: StepKit) -> None:
    """get, get_group and delete answer what the same step has written."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams["chatMessage"]
        await chat.set("general", "1", {"text": "a"})
        await chat.set("general", "2", {"text": "b"})
        seen = [await chat.get("general", "1"), await chat.get_group("general"), await chat.delete("general", "2")]
        return {"status": 200, "body": [*seen, await chat.getGroup("general"), await chat.delete("general", "2")]}

    one, two = {"text": "a", "id": "1"}, {"text": "b", "id": "2"}
    assert (await kit.post(handler)).json() == [one, [one, two], two, [one], None]


async def test_an_exception_rolls_everything_back(kit: StepKit, caplog: pytest.LogCaptureFixture) -> None:
    """Items, rows and events are gone; the client gets an id that is in the log, and no inner detail."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.db.execute(text("insert into orders values ('o1')"))
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        await context.streams.chatMessage.send({"groupId": "general"}, {"type": "typing", "data": {}})
        raise ValueError("the password is xyzzy")

    with caplog.at_level(logging.ERROR):
        answer = await kit.post(handler)
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error["code"] == "internal_error"
    assert error["id"] in caplog.text and "xyzzy" in caplog.text and "xyzzy" not in answer.text
    assert await kit.ids() == await kit.query("select id from orders") == []
    assert await kit.query("select type from streams.event") == []


async def test_a_table_of_the_author_and_a_stream_are_written_together(kit: StepKit) -> None:
    """context.db and context.streams are one transaction, whichever is used first."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        if req["body"]["first"] == "db":
            await context.db.execute(text("insert into orders values (:id)"), {"id": req["body"]["id"]})
        await context.streams.chatMessage.set("general", req["body"]["id"], {"text": "hi"})
        if req["body"]["first"] == "stream":
            await context.db.execute(text("insert into orders values (:id)"), {"id": req["body"]["id"]})
        xids = [(await context.db.execute(text("select pg_current_xact_id()::text"))).scalar_one()]
        return {"status": 200, "body": xids}

    for first, id in (("db", "1"), ("stream", "2")):
        answer = await kit.post(handler, json={"first": first, "id": id})
        assert await kit.query("select xid::text from streams.change where id = $1", id) == answer.json()
    assert await kit.ids() == await kit.query("select id from orders order by id") == ["1", "2"]


@pytest.mark.parametrize(
    "answer",
    [{"status": 200, "body": object()}, {"status": 200, "body": float("nan")}, {"status": 99}, None, "text"],
)
async def test_an_answer_that_cannot_be_sent_rolls_back(kit: StepKit, answer: Any) -> None:
    """What is wrong with the answer is found before the commit."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        return answer

    response = await kit.post(handler)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "answer_invalid")
    assert await kit.ids() == []


async def test_a_swallowed_database_error_is_no_success(kit: StepKit) -> None:
    """Postgres answers COMMIT in a failed transaction with a silent ROLLBACK; the step answers 500."""

    async def by_db(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        with suppress(DBAPIError):
            await context.db.execute(text("select 1/0"))
        return OK

    async def by_stream(req: dict[str, Any], context: Any) -> Any:
        await context.db.execute(text("insert into orders values ('o1')"))
        await context.db.execute(text("alter table streams.chat_message add check (data ->> 'text' <> 'bad')"))
        with suppress(asyncpg.CheckViolationError):
            await context.streams.chatMessage.set("general", "1", {"text": "bad"})
        return OK

    for handler in (by_db, by_stream):
        answer = await kit.post(handler)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "transaction_aborted")
    assert await kit.ids() == await kit.query("select id from orders") == []


async def test_a_savepoint_undoes_only_its_part(kit: StepKit) -> None:
    """begin_nested() is for the part that may fail: what was written outside of it is kept."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "kept"})
        try:
            async with context.db.begin_nested():
                await context.streams.chatMessage.set("general", "2", {"text": "undone"})
                await context.db.execute(text("select 1/0"))
        except DBAPIError:
            await context.streams.chatMessage.set("general", "3", {"text": "kept"})
        return OK

    assert (await kit.post(handler)).status_code == 200
    assert sorted(await kit.ids()) == ["1", "3"]


@pytest.mark.parametrize("name", ["commit", "rollback"])
async def test_a_handler_cannot_end_its_transaction(kit: StepKit, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """context.db.commit() and rollback() are refused with what to do instead, and the step rolls back."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        await getattr(context.db, name)()
        return OK

    answer = await kit.post(handler)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "not_supported")
    assert "begin_nested" in caplog.text
    assert await kit.ids() == []


async def test_a_handler_that_ends_its_transaction_in_sql_gets_no_success(kit: StepKit) -> None:
    """Behind SQLAlchemy's back it can; the answer says that something is wrong."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        await context.db.execute(text("rollback"))
        return OK

    answer = await kit.post(handler)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "transaction_aborted")


async def test_a_begin_block_of_sqlalchemy_is_part_of_the_step(kit: StepKit) -> None:
    """`async with context.db.begin()` commits with the step; if it was rolled back, so is the step."""

    async def good(req: dict[str, Any], context: Any) -> Any:
        async with context.db.begin():
            await context.db.execute(text("insert into orders values ('o1')"))
        assert await kit.query("select id from orders") == []
        return OK

    async def bad(req: dict[str, Any], context: Any) -> Any:
        try:
            async with context.db.begin():
                await context.db.execute(text("insert into orders values ('o2')"))
                raise KeyError("mine")
        except KeyError:
            return OK

    assert (await kit.post(good)).status_code == 200
    assert (await kit.post(bad)).status_code == 500
    assert await kit.query("select id from orders") == ["o1"]


async def test_a_constraint_that_fails_at_commit_fails_the_step(kit: StepKit) -> None:
    """A deferred constraint is checked by COMMIT itself: the answer waits for that."""
    await kit.query("alter table orders add other text references orders deferrable initially deferred")

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        await context.db.execute(text("insert into orders values ('o1', 'nobody')"))
        return OK

    answer = await kit.post(handler)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert await kit.ids() == []


def deadlocking(id: str, mine: asyncio.Event, other: asyncio.Event, answered: asyncio.Event) -> Any:
    """A handler that takes one row and then another's; the two meet in a deadlock the first time, and only then."""
    order = ["a", "b"] if id == "a" else ["b", "a"]

    async def handler(req: dict[str, Any], context: Any) -> Any:
        if mine.is_set():
            await answered.wait()
        await context.streams.chatMessage.set("general", order[0], {"text": id})
        mine.set()
        await other.wait()
        await context.streams.chatMessage.set("general", order[1], {"text": id})
        assert req["body"].pop("fresh")  # a second run must get a fresh request
        return OK

    return handler


@pytest.mark.parametrize(("retries", "statuses"), [(0, [200, 503]), (2, [200, 200])])
async def test_a_deadlock_is_503_or_run_again(kit: StepKit, retries: int, statuses: list[int]) -> None:
    """The victim's client is told when to come back; with retries the step is run again from the start."""
    a, b, answered = asyncio.Event(), asyncio.Event(), asyncio.Event()
    steps = (
        step(deadlocking("a", a, b, answered), name="A", path="/a", retries=retries),
        step(deadlocking("b", b, a, answered), name="B", path="/b", retries=retries),
    )

    async def post(client: httpx.AsyncClient, path: str) -> httpx.Response:
        answer = await client.post(path, json={"fresh": True})
        answered.set()
        return answer

    async with kit.client(*steps) as client:
        answers = await asyncio.gather(post(client, "/a"), post(client, "/b"))
    assert sorted(answer.status_code for answer in answers) == statuses
    for answer in answers:
        if answer.status_code == 503:
            assert answer.json()["error"]["code"] == "transaction_conflict"
            assert answer.headers["retry-after"] == "1"
    texts = await kit.query("select data ->> 'text' from streams.chat_message")
    assert len(texts) == 2 and len(set(texts)) == 1  # one of them, whole


@pytest.mark.parametrize(("retries", "status"), [(0, 503), (1, 200)])
async def test_a_serialisation_failure_at_commit_is_503_or_run_again(kit: StepKit, retries: int, status: int) -> None:
    """40001 may come from COMMIT alone; that counts like any other."""
    runs = 0

    async def handler(req: dict[str, Any], context: Any) -> Any:
        nonlocal runs
        runs += 1
        await context.db.execute(text("set transaction isolation level serializable"))
        count = (await context.db.execute(text("select count(*) from orders"))).scalar_one()
        if runs == 1:  # somebody else does the same at the same moment, and commits first
            other = await asyncpg.connect(kit.url)
            async with other.transaction(isolation="serializable"):
                await other.fetchval("select count(*) from orders")
                await context.db.execute(text("insert into orders values (:id)"), {"id": f"mine {count}"})
                await other.execute("insert into orders values ('other')")
            await other.close()
        else:
            await context.db.execute(text("insert into orders values (:id)"), {"id": f"mine {count}"})
        return OK

    assert (await kit.post(handler, retries=retries)).status_code == status
    assert await kit.query("select id from orders order by id") == (["mine 1", "other"] if retries else ["other"])


@pytest.mark.parametrize(("retries", "status"), [(0, 503), (1, 200)])
async def test_a_lock_timeout_is_503_or_run_again(kit: StepKit, retries: int, status: int) -> None:
    """Whoever had the row will be done with it some time."""

    async def write(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "mine", {"text": "first"})
        return OK

    await kit.post(write)
    other = await asyncpg.connect(kit.url)
    theirs = other.transaction()
    await theirs.start()
    await other.execute("select from streams.chat_message for update")
    runs = 0

    async def handler(req: dict[str, Any], context: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs == 2:
            await theirs.rollback()
        await context.db.execute(text("set local lock_timeout = '50ms'"))
        await context.streams.chatMessage.set("general", "mine", {"text": "changed"})
        return OK

    answer = await kit.post(handler, retries=retries)
    await other.close()
    assert answer.status_code == status
    if status == 503:
        assert answer.json()["error"]["code"] == "transaction_conflict"


async def test_a_step_that_needs_no_database_takes_no_connection(kit: StepKit) -> None:
    """Such a step works while the database is away."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        assert context.db is not None and context.streams.chatMessage is not None
        return OK

    away = Database(pool_size_max=2, pool_timeout_seconds=1)
    await away.open("postgresql://postgres@127.0.0.1:1/nowhere")
    async with kit.client(step(handler), database=away) as client:
        assert (await client.post("/run")).status_code == 200
    await away.close()


@pytest.mark.parametrize("url", ["postgresql://postgres@127.0.0.1:1/nowhere"])
async def test_a_database_that_is_away_is_503(kit: StepKit, url: str) -> None:
    """The client is told to come back, through streams and through db."""

    async def by_stream(req: dict[str, Any], context: Any) -> Any:
        return {"status": 200, "body": await context.streams.chatMessage.get_group("general")}

    async def by_db(req: dict[str, Any], context: Any) -> Any:
        await context.db.execute(text("select 1"))
        return OK

    away = Database(pool_size_max=2, pool_timeout_seconds=1)
    await away.open(url)
    for handler in (by_stream, by_db):
        for transaction in (True, False):
            async with kit.client(step(handler, transaction=transaction), database=away) as client:
                answer = await client.post("/run")
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
                assert answer.headers["retry-after"] == "5"
    await away.close()


async def test_an_error_of_the_handler_that_looks_like_the_networks_is_not_the_databases(kit: StepKit) -> None:
    """A ConnectionError of the handler's own making is a 500."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        raise ConnectionRefusedError("some other service")

    assert (await kit.post(handler)).status_code == 500


@pytest.mark.parametrize("use_db", [False, True])
async def test_a_connection_that_breaks_in_a_step_is_503_and_not_used_again(kit: StepKit, use_db: bool) -> None:
    """The step is lost, the next one isn't."""
    is_first = True

    async def handler(req: dict[str, Any], context: Any) -> Any:
        nonlocal is_first
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        if is_first:
            is_first = False
            pid = (await context.db.execute(text("select pg_backend_pid()"))).scalar_one()
            await kit.query("select pg_terminate_backend($1, 5000)", pid)
        if use_db:
            await context.db.execute(text("select 1"))
        await context.streams.chatMessage.set("general", "2", {"text": "hi"})
        return OK

    async with kit.client(step(handler)) as client:
        answer = await client.post("/run")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
        assert await kit.ids() == []
        assert (await client.post("/run")).status_code == 200


async def test_connections_that_died_in_the_pool_are_replaced_unnoticed(kit: StepKit) -> None:
    """After a restart of the database steps go on: a connection that is known to be closed isn't used."""
    drivers: list[Any] = []

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        connection = await context.db.connection()
        drivers.append(connection.sync_connection.connection.driver_connection)
        return OK

    async with kit.client(step(handler)) as client:
        await asyncio.gather(*(client.post("/run") for _ in range(3)))
        await kit.query(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        while not all(driver.is_closed() for driver in drivers):  # noqa: ASYNC110 - asyncpg has no event for it
            await asyncio.sleep(0)
        assert (await client.post("/run")).status_code == 200


async def test_what_a_step_sets_on_its_connection_ends_with_it(step_template: StepTemplate) -> None:
    """The next step on the same connection finds it as it was opened, and can't be reached by the first one's."""
    kept: list[Any] = []

    async def first(req: dict[str, Any], context: Any) -> Any:
        kept.append(await context.db.connection(execution_options={"isolation_level": "SERIALIZABLE"}))
        return OK

    async def second(req: dict[str, Any], context: Any) -> Any:
        with pytest.raises(ResourceClosedError):
            await kept[0].execute(text("insert into orders values ('o1')"))
        await context.db.execute(text("insert into orders values ('o2')"))
        return OK

    async with (
        open_steps(step_template, pool_size_max=1) as kit,
        kit.client(step(first), step(second, name="Second", path="/second")) as client,
    ):
        assert [(await client.post(path)).status_code for path in ("/run", "/second")] == [200, 200]
        assert await kit.query("select id from orders") == ["o2"]


async def test_a_full_pool_is_503(step_template: StepTemplate) -> None:
    """A step that gets no connection in time says so; it does not wait forever."""
    holds, release = asyncio.Event(), asyncio.Event()

    async def holder(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        holds.set()
        await release.wait()
        return OK

    async def late(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "2", {"text": "hi"})
        return OK

    async with (
        open_steps(step_template, pool_size_max=1, pool_timeout_seconds=0.05) as kit,
        kit.client(step(holder), step(late, name="Late", path="/late")) as client,
    ):
        holding = asyncio.create_task(client.post("/run"))
        await holds.wait()
        answer = await client.post("/late")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
        release.set()
        assert (await holding).status_code == 200


async def test_without_a_transaction_every_write_is_seen_at_once(kit: StepKit) -> None:
    """`"transaction": false`: no connection is held between operations, and an error undoes nothing."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        assert await kit.ids() == ["1"]
        assert kit.connections_out() == 0
        await context.db.execute(text("insert into orders values ('o1')"))
        assert await kit.query("select id from orders") == ["o1"]
        raise ValueError("too late")

    assert (await kit.post(handler, transaction=False)).status_code == 500
    assert await kit.ids() == ["1"]
    assert kit.connections_out() == 0


OUTCOMES = """
    create function outcome() returns trigger language plpgsql as $$
    begin
        if new.id = 'lost' then
            perform pg_terminate_backend(pg_backend_pid());
        elsif new.id = 'conflict' then
            raise exception 'lost against another' using errcode = '40001';
        elsif new.id = 'read-only' then
            raise exception 'takes no writes' using errcode = '25006';
        end if;
        return new;
    end
    $$
"""


@pytest.mark.parametrize(
    ("works", "code"),
    [
        ("set, lost", "commit_unknown"),
        ("lost", "commit_unknown"),
        ("set, conflict", "commit_unknown"),
        ("set, read-only", "commit_unknown"),
        ("not awaited, conflict", "commit_unknown"),
        ("db, conflict", "commit_unknown"),
        ("db, read-only", "commit_unknown"),
        ("set, db lost", "commit_unknown"),
        ("db, db lost", "commit_unknown"),
        ("db lost", "commit_unknown"),
        ("get, conflict", "transaction_conflict"),
        ("conflict, conflict", "transaction_conflict"),
        ("db conflict", "transaction_conflict"),
        ("get, read-only", "database_unavailable"),
        ("db read-only", "database_unavailable"),
        ("set, busy", "commit_unknown"),
        ("get, busy", "step_busy"),
    ],
)
async def test_nothing_was_stored_is_said_only_where_it_is_so(kit: StepKit, works: str, code: str) -> None:
    """Without a transaction: what was done stays, and who is told to try again would do it twice."""
    await kit.query(OUTCOMES)
    for table in ("orders", "streams.chat_message"):
        await kit.query(f"create trigger outcome before insert on {table} for each row execute function outcome()")

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        for work in works.split(", "):
            if work == "get":
                await chat.get("general", "1")
            elif work == "not awaited":
                chat.set("general", "1", {"text": "hi"})
            elif work == "busy":
                raise StepBusyError("no connection was given back by the step's other runs")
            elif work.startswith("db"):
                await context.db.execute(text("insert into orders values (:id)"), {"id": work.removeprefix("db ")})
            else:
                with suppress(asyncpg.SerializationError if works == "conflict, conflict" else ()):
                    await chat.set("general", work, {"text": "hi"})
        raise asyncpg.SerializationError("of a connection of the handler's own")

    answer = await kit.post(handler, transaction=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, code)
    assert ("retry-after" in answer.headers) == (code != "commit_unknown")
    assert code == "commit_unknown" or await kit.query("select id from orders") == await kit.ids() == []


async def test_no_step_leaves_a_connection_or_a_transaction_behind(kit: StepKit) -> None:
    """After successes and failures of all kinds the pool has all its connections, and all are idle."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        kind = req["body"]
        await context.streams.chatMessage.set("general", kind, {"text": "hi"})
        if kind == "raise":
            raise ValueError
        if kind == "error":
            await context.db.execute(text("select 1/0"))
        if kind == "gather":
            await asyncio.gather(*(context.streams.chatMessage.set("g", str(n), {"text": ""}) for n in range(9)))
        return {"status": 200 if kind != "answer" else 0}

    kinds = ["fine", "raise", "error", "gather", "answer"] * 3
    async with kit.client(step(handler)) as client:
        await asyncio.gather(*(client.post("/run", json=kind) for kind in kinds))
    assert kit.connections_out() == 0
    states = await kit.query(
        "select distinct state from pg_stat_activity "
        "where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()"
    )
    assert states == ["idle"]
