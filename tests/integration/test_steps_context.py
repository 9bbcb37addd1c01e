"""What a handler gets: streams as in Motia, a logger, and nothing that outlives it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import InvalidRequestError

from tests.integration.step_fixtures import StepKit, StepTemplate, open_steps, step
from tidelog.errors import ItemInvalidError, NotSupportedError, StepEndedError, StreamUnknownError

OK = {"status": 200, "body": "ok"}


@pytest.fixture
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template) as kit:
        yield kit


async def test_calls_at_the_same_time_share_the_transaction(kit: StepKit) -> None:
    """asyncio.gather over streams and db: one connection serves them one after the other."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        await asyncio.gather(
            *(chat.set("general", str(n), {"text": "hi"}) for n in range(100)),
            context.db.execute(text("insert into orders select n::text from generate_series(1, 100) n")),
            *(chat.get("general", str(n)) for n in range(100)),
        )
        return OK

    assert (await kit.post(handler)).status_code == 200
    assert len(await kit.ids()) == 100
    assert await kit.query("select count(distinct xid) from streams.change") == [1]


@pytest.mark.parametrize("transaction", [True, False])
async def test_a_call_that_nobody_awaited_is_made_before_the_answer(kit: StepKit, transaction: bool) -> None:
    """Motia's authors leave `await` out; the calls are made in their order, and before the commit."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        for n in range(200):
            chat.set("general", "1", {"text": str(n)})
        chat.send({"groupId": "general"}, {"type": "typing", "data": {"n": 1}})
        await chat.set("general", "2", {"text": "awaited"})
        return OK

    assert (await kit.post(handler, transaction=transaction)).status_code == 200
    query = "select data ->> 'text' from streams.change where id = '1' order by seq"
    assert await kit.query(query) == [str(n) for n in range(200)]
    assert await kit.query("select data::text from streams.event") == ['{"n": 1}']


async def test_a_call_that_was_made_a_task_is_waited_for(kit: StepKit) -> None:
    """create_task without awaiting the task: its write is in the commit."""
    tasks = []

    async def handler(req: dict[str, Any], context: Any) -> Any:
        tasks.append(asyncio.create_task(context.streams.chatMessage.set("general", "1", {"text": "hi"})))
        return OK

    assert (await kit.post(handler)).status_code == 200
    assert await kit.ids() == ["1"]
    assert (await tasks[0])["id"] == "1"


async def test_a_call_that_nobody_awaited_fails_the_step_if_it_fails(kit: StepKit) -> None:
    """An error that the author did not look for is not lost."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        context.streams.chatMessage.set("general", "2", {"wrong": "schema"})
        context.streams.chatMessage.set("general", "3", {"text": "hi"})
        return OK

    answer = await kit.post(handler)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "item_invalid")
    assert await kit.ids() == []


@pytest.mark.parametrize("transaction", [True, False])
async def test_a_context_ends_with_its_handler(kit: StepKit, transaction: bool) -> None:
    """A background task that kept it gets a clear error, and writes into nobody's transaction."""
    kept: list[Any] = []

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.db.execute(text("select 1"))
        kept.extend([context, context.db])
        return OK

    assert (await kit.post(handler, transaction=transaction)).status_code == 200
    context, db = kept
    with pytest.raises(StepEndedError, match="has returned"):
        await context.streams.chatMessage.set("general", "1", {"text": "late"})
    with pytest.raises(StepEndedError):
        _ = context.db
    with pytest.raises((StepEndedError, InvalidRequestError)):
        await db.execute(text("insert into orders values ('late')"))
    assert await kit.ids() == await kit.query("select id from orders") == []
    assert kit.connections_out() == 0


@pytest.mark.parametrize("transaction", [True, False])
async def test_a_plain_handler_runs_in_a_thread_and_its_calls_wait(kit: StepKit, transaction: bool) -> None:
    """`def handler`: the same streams without await, in the same transaction; no session."""

    def handler(req: dict[str, Any], context: Any) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        stored = context.streams.chatMessage.set("general", "1", {"text": "hi"})
        context.streams.chatMessage.send({"groupId": "general", "id": "1"}, {"type": "seen", "data": {}})
        assert context.streams.chatMessage.getGroup("general") == [stored]
        with pytest.raises(NotSupportedError, match="async def"):
            _ = context.db
        if req["body"] == "raise":
            raise ValueError
        return {"status": 200, "body": stored}

    assert (await kit.post(handler, json="raise", transaction=transaction)).status_code == 500
    assert await kit.ids() == ([] if transaction else ["1"])
    answer = await kit.post(handler, json="fine", transaction=transaction)
    assert answer.json() == {"text": "hi", "id": "1"}


@pytest.mark.timeout(60)
async def test_a_plain_handler_that_lets_stop_iteration_out_is_answered(kit: StepKit) -> None:
    """next() without a default is a mistake of the step, not a request that hangs."""

    def handler(req: dict[str, Any]) -> Any:
        return next(iter(()))

    assert (await kit.post(handler)).status_code == 500


async def test_a_handler_may_do_without_the_context(kit: StepKit) -> None:
    """handler(req), async or plain."""

    async def of_req(req: dict[str, Any]) -> Any:
        return {"status": 200, "body": req["body"]}

    def plain(req: dict[str, Any]) -> Any:
        return {"status": 200, "body": req["body"]}

    for handler in (of_req, plain):
        assert (await kit.post(handler, json={"a": 1})).json() == {"a": 1}


async def test_an_event_goes_with_the_commit(kit: StepKit) -> None:
    """send stores the event in the step's transaction, whatever its size up to the limit."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        await chat.send({"groupId": "general"}, {"type": "typing", "data": {"x": "y" * 9000}})
        await chat.send({"groupId": "general", "id": "1"}, {"type": "seen", "data": None})
        with pytest.raises(ItemInvalidError):
            await chat.send({"groupId": "general"}, {"type": "big", "data": "y" * 11_000})
        with pytest.raises(ItemInvalidError):
            await chat.send({"id": "1"}, {"type": "seen", "data": {}})
        return OK

    assert (await kit.post(handler)).status_code == 200
    rows = await kit.query(
        "select (stream, group_id, id, type, length(data::text))::text from streams.event order by seq"
    )
    assert rows == ["(chatMessage,general,,typing,9009)", "(chatMessage,general,1,seen,4)"]


async def test_an_item_may_be_a_pydantic_object(kit: StepKit) -> None:
    """set takes what pydantic can turn into an object; what it can't is refused before it reaches Postgres."""

    class Message(BaseModel):
        text: str

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        for wrong in ({"text": 1}, {"text": float("nan")}, {"text": "\0"}, {"text": "\ud800"}, "text", None):
            with pytest.raises(ItemInvalidError):
                await chat.set("general", "2", wrong)
        return {"status": 200, "body": await chat.set("general", "1", Message(text="hi"))}

    assert (await kit.post(handler)).json() == {"text": "hi", "id": "1"}


async def test_an_unknown_stream_is_an_error_that_lists_the_known(kit: StepKit) -> None:
    """By attribute and by name."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        with pytest.raises(StreamUnknownError, match="chatMessage"):
            _ = context.streams.chatMessages
        with pytest.raises(StreamUnknownError, match="chatMessage"):
            _ = context.streams["nope"]
        assert list(context.streams) == ["chatMessage"] and "nope" not in context.streams
        return OK

    assert (await kit.post(handler)).status_code == 200


async def test_a_context_has_the_flows_of_its_step(kit: StepKit) -> None:
    """As Motia's files read them."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        return {"status": 200, "body": context.flows}

    assert (await kit.post(handler, flows=("chat",))).json() == ["chat"]


async def test_the_logger_says_step_trace_and_data(kit: StepKit, caplog: pytest.LogCaptureFixture) -> None:
    """context.logger writes through Python's logging, as the place that called it."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        context.logger.info("stored", {"id": 1, "o": object})
        context.logger.warn("careful")
        assert context.trace_id == context.traceId
        return OK

    with caplog.at_level(logging.INFO, logger="tidelog.steps"):
        async with kit.client(step(handler, flows=("chat",))) as client:
            await client.post("/run", headers={"x-trace-id": "my-trace.1"})
    first, second = (record for record in caplog.records if record.name == "tidelog.steps")
    about = {"step": "Run", "trace_id": "my-trace.1", "flows": ["chat"]}
    assert first.getMessage() == "stored" and about.items() <= vars(first).items()
    assert vars(first)["data"] == {"id": 1, "o": object}
    assert first.filename == "test_steps_context.py"
    assert (second.levelname, second.getMessage()) == ("WARNING", "careful") and about.items() <= vars(second).items()
