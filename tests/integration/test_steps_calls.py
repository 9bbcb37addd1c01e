"""Calls on streams are begun when they are made and take effect in that order, awaited or not; and they are tasks."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from pydantic import BaseModel, model_serializer
from sqlalchemy import text

from tests.integration.step_fixtures import StepKit, StepTemplate, open_steps, step
from tidelog.errors import ItemInvalidError, KeyInvalidError, StepEndedError, StreamUnknownError

OK = {"status": 200, "body": "ok"}
HISTORY = "select case op when 'delete' then op else data ->> 'text' end from streams.change order by seq"

both = pytest.mark.parametrize("transaction", [True, False])


@pytest.fixture
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template) as kit:
        yield kit


@pytest.fixture
def noise() -> Any:
    """What asyncio complains of: exceptions that nobody retrieved, tasks that were destroyed."""
    said: list[str] = []
    loop = asyncio.get_event_loop_policy().get_event_loop()
    loop.set_exception_handler(lambda _, about: said.append(about["message"]))
    yield said
    loop.set_exception_handler(None)


@both
async def test_an_awaited_write_does_not_overtake_earlier_ones(kit: StepKit, transaction: bool) -> None:
    """The last state that was written is the one that is stored."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        chat.set("g", "x", {"text": "writing"})
        chat.set("g", "x", {"text": "still writing"})
        await chat.set("g", "x", {"text": "completed"})
        chat.delete("g", "y")
        return {"status": 200, "body": await chat.get("g", "x")}

    assert (await kit.post(handler, transaction=transaction)).json()["text"] == "completed"
    assert await kit.query(HISTORY) == ["writing", "still writing", "completed"]


@both
async def test_calls_take_effect_in_the_order_in_which_they_were_made(kit: StepKit, transaction: bool) -> None:
    """However they are awaited: out of order, gathered, by other tasks, or not at all."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        made = [chat.set("g", str(n), {"text": str(n)}) for n in range(4)]
        await made[2]
        await asyncio.gather(chat.set("g", "4", {"text": "4"}), chat.set("g", "5", {"text": "5"}))

        async def another() -> None:
            chat.set("g", "6", {"text": "6"})
            await chat.set("g", "7", {"text": "7"})

        await asyncio.create_task(another())
        chat.set("g", "8", {"text": "8"})
        assert [item["id"] for item in await chat.get_group("g")] == [str(n) for n in range(9)]
        chat.delete("g", "8")
        return OK

    assert (await kit.post(handler, transaction=transaction)).status_code == 200
    assert await kit.query(HISTORY) == [*(str(n) for n in range(9)), "delete"]


@both
async def test_an_event_keeps_its_place_among_calls(kit: StepKit, transaction: bool) -> None:
    """`send` before and after writes, not awaited."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        for n in range(3):
            chat.send({"groupId": "g"}, {"type": f"before {n}", "data": {}})
            await chat.set("g", "1", {"text": str(n)})
        return OK

    assert (await kit.post(handler, transaction=transaction)).status_code == 200
    written = "select seq, data ->> 'text' as word from streams.change union all select seq, type from streams.event"
    words = await kit.query(f"select word from ({written}) as written order by seq")
    assert words == ["before 0", "0", "before 1", "1", "before 2", "2"]


async def test_a_call_that_is_not_awaited_is_seen_while_the_handler_runs(kit: StepKit) -> None:
    """Without a transaction each is stored at once: so an answer is streamed as it grows."""
    chunks: list[list[str]] = []

    async def handler(req: dict[str, Any], context: Any) -> Any:
        for n in range(3):
            call = context.streams.chatMessage.set("g", "x", {"text": str(n)})
            await asyncio.wait([call])
            chunks.append(await kit.query(HISTORY))
        return OK

    async def sleeping(req: dict[str, Any], context: Any) -> Any:
        context.streams.chatMessage.set("g", "y", {"text": "seen"})
        while "seen" not in await kit.query(HISTORY):
            pass
        return OK

    assert (await kit.post(handler, transaction=False)).status_code == 200
    assert chunks == [["0"], ["0", "1"], ["0", "1", "2"]]
    assert (await kit.post(sleeping, transaction=False)).status_code == 200


@both
async def test_a_call_is_a_task(kit: StepKit, transaction: bool) -> None:
    """done, result, callbacks, cancel; awaited twice; and all of asyncio takes it that takes a task."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        call = chat.set("g", "1", {"text": "a"})
        ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        call.add_done_callback(ended.set_result)
        assert not call.done()
        assert await ended is call and call.done() and call.result() == {"text": "a", "id": "1"}
        assert await call == await call == call.result()

        awaited = chat.set("g", "2", {"text": "b"})
        assert await awaited == await awaited == awaited.result()

        done, pending = await asyncio.wait([chat.set("g", "3", {"text": "c"}), chat.get("g", "1")])
        assert (len(done), pending) == (2, set())
        for one in asyncio.as_completed([chat.get("g", "3")]):
            assert (await one)["text"] == "c"
        assert (await asyncio.shield(chat.get("g", "3")))["text"] == "c"

        off = chat.set("g", "never", {"text": "d"})
        assert off.cancel()
        with pytest.raises(asyncio.CancelledError):
            await off
        assert off.cancelled() and not off.cancel()
        return {"status": 200, "body": [item["id"] for item in await chat.get_group("g")]}

    answer = await kit.post(handler, transaction=transaction)
    assert (answer.status_code, answer.json()) == (200, ["1", "2", "3"])


async def test_a_call_is_one_call_for_all_who_ask(kit: StepKit) -> None:
    """While it runs in the task that awaits it, which takes none of its own, others may await it, too."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        told: list[Any] = []

        async def another(call: Any) -> Any:
            call.add_done_callback(told.append)
            call.add_done_callback(print)
            assert call.remove_done_callback(print) == 1 and not call.done()
            assert len(asyncio.all_tasks()) == tasks + 1
            return await call

        tasks = len(asyncio.all_tasks())
        good = chat.set("g", "1", {"text": "once"})
        other = asyncio.create_task(another(good))
        assert await good is await other is good.result()
        await context.db.execute(text("alter table streams.chat_message add check (data ->> 'text' <> 'bad')"))
        failing = chat.set("g", "2", {"text": "bad"})
        other = asyncio.create_task(another(failing))
        with pytest.raises(asyncpg.CheckViolationError):
            await failing
        with pytest.raises(asyncpg.CheckViolationError):
            await other
        assert told == [good, failing] and isinstance(failing.exception(), asyncpg.CheckViolationError)
        reached.append(True)
        return OK

    reached: list[bool] = []
    assert (await kit.post(handler)).json()["error"]["code"] == "transaction_aborted"
    assert reached


@both
async def test_a_call_passes_for_a_coroutine(kit: StepKit, transaction: bool) -> None:
    """create_task, task groups, wait_for, and a thread's run_coroutine_threadsafe; at once or later."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        loop = asyncio.get_running_loop()
        await asyncio.create_task(chat.set("g", "1", {"text": "a"}))
        async with asyncio.TaskGroup() as group:
            group.create_task(chat.set("g", "2", {"text": "b"}))
            group.create_task(chat.set("g", "3", {"text": "c"}))
        await asyncio.wait_for(chat.set("g", "4", {"text": "d"}), 60)
        async with asyncio.timeout(60):
            await chat.set("g", "5", {"text": "e"})
        later = chat.set("g", "6", {"text": "f"})
        await asyncio.sleep(0)
        await asyncio.create_task(later)

        def in_a_thread() -> Any:
            call = chat.set("g", "7", {"text": "g"})
            return asyncio.run_coroutine_threadsafe(call, loop).result()

        assert (await asyncio.to_thread(in_a_thread))["id"] == "7"
        return {"status": 200, "body": [item["id"] for item in await chat.get_group("g")]}

    assert (await kit.post(handler, transaction=transaction)).json() == list("1234567")


async def test_a_call_that_is_called_off_ends_alone(kit: StepKit) -> None:
    """Whether it waits in the database, for its turn, or was only just made; what is made afterwards is stored."""
    other = await asyncpg.connect(kit.url)
    await kit.query("insert into streams.chat_message (group_id, id, data) values ('g', 'held', '{}')")

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        begun = chat.set("g", "begun", {"text": "never"})
        begun.cancel()
        held = chat.set("g", "held", {"text": "never"})
        waits = chat.set("g", "waits", {"text": "never"})
        done, _ = await asyncio.wait([held, waits], timeout=0.05)
        assert not done and begun.cancelled()
        waits.cancel()
        held.cancel()
        await asyncio.wait([held, waits])

        awaited = chat.set("g", "held", {"text": "never"})
        asyncio.get_running_loop().call_later(0.05, awaited.cancel)
        with pytest.raises(asyncio.CancelledError):
            await awaited
        task = asyncio.current_task()
        assert task is not None and not task.cancelling()
        await chat.set("g", "after", {"text": "stored"})
        return OK

    async with other.transaction():
        await other.execute("select from streams.chat_message for update")
        assert (await kit.post(handler, transaction=False)).status_code == 200
    await other.close()
    assert sorted(await kit.ids()) == ["after", "held"]


@pytest.mark.parametrize("how", ["alone", "before an awaited one", "as a task", "at the end"])
@both
async def test_an_error_that_nobody_awaited_fails_the_step(
    kit: StepKit, how: str, transaction: bool, noise: list[str]
) -> None:
    """Its kind decides the answer, the step is rolled back, and asyncio has nothing to complain of."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        await chat.set("g", "1", {"text": "a"})
        bad = chat.set("g", "2", {"wrong": "schema"})
        if how == "before an awaited one":
            await chat.set("g", "3", {"text": "b"})
        if how == "as a task":
            kept.append(asyncio.create_task(bad))
        if how == "alone":
            await asyncio.wait([bad])
        del bad
        return OK

    kept: list[Any] = []
    answer = await kit.post(handler, transaction=transaction)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "item_invalid")
    kept.clear()
    stored = [] if transaction else ["1", "3"] if how == "before an awaited one" else ["1"]
    assert await kit.ids() == stored
    gc.collect()
    assert noise == []


async def test_an_error_that_was_caught_fails_nothing(kit: StepKit, noise: list[str]) -> None:
    """Awaited at once, later, gathered, or asked for."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        for _ in range(100):
            with pytest.raises(ItemInvalidError):
                await chat.set("g", "1", {"wrong": "schema"})
        late = chat.set("g", "2", {"wrong": "schema"})
        await chat.set("g", "3", {"text": "stored"})
        with pytest.raises(ItemInvalidError):
            await late
        results = await asyncio.gather(*(chat.get("g", "") for _ in range(100)), return_exceptions=True)
        assert {type(result) for result in results} == {KeyInvalidError}
        asked = chat.send({}, {})
        await asyncio.wait([asked])
        assert isinstance(asked.exception(), ItemInvalidError)
        with pytest.raises(ItemInvalidError):
            await asyncio.create_task(chat.set("g", "4", None))
        return OK

    assert (await kit.post(handler)).status_code == 200
    assert await kit.ids() == ["3"]
    gc.collect()
    assert noise == []


@pytest.mark.parametrize(("retries", "status"), [(0, 503), (1, 200)])
async def test_a_conflict_in_a_call_that_nobody_awaited_is_one(kit: StepKit, retries: int, status: int) -> None:
    """The awaited call after it only says that the transaction has failed: the cause decides, and is run again."""
    other = await asyncpg.connect(kit.url)
    theirs = other.transaction()
    await theirs.start()
    await other.execute("insert into streams.chat_message (group_id, id, data) values ('g', 'held', '{}')")
    runs = 0

    async def handler(req: dict[str, Any], context: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs == 2:
            await theirs.rollback()
        await context.db.execute(text("set local lock_timeout = '50ms'"))
        context.streams.chatMessage.set("g", "held", {"text": "mine"})
        await context.streams.chatMessage.set("g", "1", {"text": "mine"})
        return OK

    answer = await kit.post(handler, retries=retries)
    await other.close()
    assert answer.status_code == status
    if status == 503:
        assert answer.json()["error"]["code"] == "transaction_conflict"


async def test_the_error_of_a_call_is_in_the_log_with_the_handlers(
    kit: StepKit, caplog: pytest.LogCaptureFixture
) -> None:
    """What the handler raised itself is answered; the earlier error isn't lost."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        call = context.streams.chatMessage.set("g", "1", {"wrong": "schema"})
        await asyncio.wait([call])
        raise ValueError("mine")

    answer = await kit.post(handler)
    assert answer.json()["error"]["code"] == "internal_error"
    assert "ValueError: mine" in caplog.text and "was not awaited failed: ItemInvalidError" in caplog.text


@both
async def test_a_failing_step_breaks_its_calls_off(kit: StepKit, transaction: bool, noise: list[str]) -> None:
    """Those that run and those that were only made; what is left of the handler can't make any more."""
    await kit.query("insert into streams.chat_message (group_id, id, data) values ('g', 'held', '{}')")
    other = await asyncpg.connect(kit.url)
    left: list[asyncio.Task[Any]] = []

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage

        async def goes_on() -> None:
            await ended.wait()
            chat.set("g", "late", {"text": "refused"})

        left.append(asyncio.create_task(goes_on()))
        await asyncio.wait([chat.set("g", "held", {"text": "waits"})], timeout=0.05)
        chat.set("g", "never", {"text": "begun"})
        chat.set("g", "bad", {"wrong": "schema"})
        raise ValueError

    ended = asyncio.Event()
    async with other.transaction():
        await other.execute("select from streams.chat_message for update")
        assert (await kit.post(handler, transaction=transaction)).status_code == 500
    await other.close()
    ended.set()
    with pytest.raises(StepEndedError):
        await left.pop()
    assert await kit.ids() == ["held"] and kit.connections_out() == 0
    gc.collect()
    assert noise == []


@both
async def test_a_call_after_the_end_is_refused(kit: StepKit, transaction: bool) -> None:
    """Where it is made, so that it is heard of without an await; also while the last calls are waited for."""
    other = await asyncpg.connect(kit.url)
    await kit.query("insert into streams.chat_message (group_id, id, data) values ('g', 'held', '{}')")
    returned, refused = asyncio.Event(), asyncio.Event()

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage

        async def goes_on() -> None:
            await returned.wait()
            with pytest.raises(StepEndedError):
                chat.set("g", "late", {"text": "refused"})
            refused.set()

        left.append(asyncio.create_task(goes_on()))
        await asyncio.wait([chat.set("g", "held", {"text": "waits"})], timeout=0.05)
        asyncio.get_running_loop().call_soon(returned.set)
        return OK

    left: list[Any] = []
    async with kit.client(step(handler, transaction=transaction)) as client:
        async with other.transaction():
            await other.execute("select from streams.chat_message for update")
            posting = asyncio.create_task(client.post("/run"))
            await refused.wait()
            assert not posting.done()
        assert (await posting).status_code == 200
    await other.close()
    await left[0]
    assert await kit.query("select data ->> 'text' from streams.chat_message") == ["waits"]


@both
async def test_a_statement_of_db_comes_after_the_calls_before_it(kit: StepKit, transaction: bool) -> None:
    """execute, get and a savepoint, after calls that were not awaited."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        count = text("select count(*) from streams.chat_message")
        seen = []
        for n in range(3):
            chat.set("g", str(n), {"text": "a"})
            chat.set("g", str(n), {"text": "b"})
            seen.append((await context.db.execute(count)).scalar_one())
        if transaction:
            chat.set("g", "kept", {"text": "before the savepoint"})
            with pytest.raises(ZeroDivisionError):
                async with context.db.begin_nested():
                    raise ZeroDivisionError
        return {"status": 200, "body": seen}

    assert (await kit.post(handler, transaction=transaction)).json() == [1, 2, 3]
    assert ("kept" in await kit.ids()) == transaction


async def test_a_call_runs_in_its_callers_context(kit: StepKit) -> None:
    """Context variables are those of the place where it was made, as with a task."""
    tenant = contextvars.ContextVar("tenant", default="nobody")

    class Note(BaseModel):
        @model_serializer
        def as_item(self) -> dict[str, str]:
            return {"text": tenant.get()}

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        for name in ("ada", "bob"):
            tenant.set(name)
            chat.set("g", name, Note())
        tenant.set("eve")
        await chat.set("g", "eve", Note())
        return {"status": 200, "body": [item["text"] for item in await chat.get_group("g")]}

    assert (await kit.post(handler)).json() == ["ada", "bob", "eve"]


async def test_a_plain_handlers_calls_still_wait(kit: StepKit) -> None:
    """In a thread each call answers what it did, and the next line finds it done."""

    def handler(req: dict[str, Any], context: Any) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        chat = context.streams.chatMessage
        assert chat.set("g", "1", {"text": "a"}) == {"text": "a", "id": "1"}
        chat.set("g", "1", {"text": "b"})
        return {"status": 200, "body": chat.get("g", "1")}

    assert (await kit.post(handler)).json()["text"] == "b"


async def test_an_unknown_stream_is_what_python_expects(kit: StepKit) -> None:
    """hasattr, getattr with a default, and a mapping's get."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        streams = context.streams
        assert hasattr(streams, "chatMessage") and not hasattr(streams, "nope")
        assert getattr(streams, "nope", None) is None and streams.get("nope") is None
        assert streams.get("chatMessage") is not None
        with pytest.raises(AttributeError, match="no stream is named 'nope'; declared are: chatMessage"):
            _ = streams.nope
        for kind in (KeyError, StreamUnknownError):
            with pytest.raises(kind):
                _ = streams["nope"]
        return OK

    assert (await kit.post(handler)).status_code == 200


async def _returned(context: Any, call: Any) -> Any:
    return call


async def _in_a_body(context: Any, call: Any) -> Any:
    return {"status": 200, "body": {"item": call}}


async def _in_an_item(context: Any, call: Any) -> Any:
    await context.streams.chatMessage.set("g", "2", {"text": call})


async def _as_an_item(context: Any, call: Any) -> Any:
    await context.streams.chatMessage.set("g", "2", call)


async def _as_a_key(context: Any, call: Any) -> Any:
    await context.streams.chatMessage.get("g", call)


async def _subscripted(context: Any, call: Any) -> Any:
    return call["text"]


async def _iterated(context: Any, call: Any) -> Any:
    return [one["text"] for one in call]


async def _searched(context: Any, call: Any) -> Any:
    return "text" in call


async def _unpacked(context: Any, call: Any) -> Any:
    return {**call, "text": "b"}


async def _asked_for(context: Any, call: Any) -> Any:
    return call.get("text")


@pytest.mark.parametrize(
    "use",
    [
        _returned,
        _in_a_body,
        _in_an_item,
        _as_an_item,
        _as_a_key,
        _subscripted,
        _iterated,
        _searched,
        _unpacked,
        _asked_for,
    ],
)
async def test_a_call_that_is_taken_for_its_answer_asks_whether_an_await_is_missing(
    kit: StepKit, caplog: pytest.LogCaptureFixture, use: Any
) -> None:
    """The client is told nothing of it, the log where it was."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        return await use(context, context.streams.chatMessage.set("g", "1", {"text": "a"}))

    assert (await kit.post(handler)).status_code == 500
    assert "is an `await` missing before it?" in caplog.text


async def test_what_a_context_or_a_stream_has_not_is_told_with_what_it_has(kit: StepKit) -> None:
    """And with what may have been meant; hasattr and getattr with a default are as ever."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        for what, name, message in (
            (context, "stream", "a context has no 'stream': did you mean 'streams'? It has streams, state, emit, db, "),
            (context, "queue", "a context has no 'queue'. It has streams, state, emit, db, "),
            (chat, "put", "a stream has no 'put'. It has "),
            (chat, "getgroup", "did you mean 'get_group'?"),
            (context.streams, "db", "no stream is named 'db'; declared are: chatMessage. SQLAlchemy's session is "),
            (context.streams, "transaction", "tidelog.open's; a step is one transaction by itself"),
        ):
            with pytest.raises(AttributeError) as told:
                getattr(what, name)
            assert message in str(told.value)
            assert not hasattr(what, name) and getattr(what, name, None) is None
        assert not hasattr(chat, "__deepcopy__")
        return OK

    assert (await kit.post(handler)).status_code == 200
