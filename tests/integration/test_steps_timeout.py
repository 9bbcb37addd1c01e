"""A handler has a time limit: 504, rolled back, its connection and its thread given back whatever it does."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy import text

from tests.conftest import StartServer
from tests.harness import StepsFolder, eventually, free_port, uvicorn_command
from tests.integration.step_fixtures import StepKit, StepTemplate, open_steps, step
from tidelog.errors import StepEndedError
from tidelog.runtime.blocked import BlockedLoopWatch
from tidelog.runtime.handler import step_in
from tidelog.runtime.threads import HandlerThreads
from tidelog.store.engine import Database

OK = {"status": 200, "body": "ok"}
SCOPE: Any = {"type": "http", "method": "POST", "path": "/run", "headers": [], "query_string": b""}
SHORT_SECONDS = 0.5  # in which a step can begin on a busy machine, but not all that a test's does


@pytest.fixture
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template, pool_size_max=2) as kit:
        yield kit


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What threads wait at until the test is over."""
    gate = threading.Event()
    yield gate
    gate.set()


class Client:
    """One whose answer comes before the application has returned."""

    def __init__(self) -> None:
        self.asked = [{"type": "http.request", "body": b"", "more_body": False}]
        self.answered = asyncio.Event()
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        if not self.asked:
            await asyncio.Event().wait()
        return self.asked.pop()

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body":
            self.answered.set()


def timed_out(answer: httpx.Response) -> bool:
    return (answer.status_code, answer.json()["error"]["code"]) == (504, "step_timed_out")


@pytest.mark.parametrize("where", ["asyncio", "db", "stream", "not awaited", "loop"])
async def test_a_handler_that_takes_too_long_is_504_and_rolled_back(kit: StepKit, where: str) -> None:
    """Wherever it stands: on something of its own, in the database, on its last calls, in the event loop's way."""
    await kit.query("insert into streams.chat_message (group_id, id, data) values ('g', 'held', '{}')")

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        await chat.set("g", "1", {"text": "undone"})
        if where == "asyncio":
            await asyncio.Event().wait()
        if where == "db":
            await context.db.execute(text("select pg_sleep(3600)"))
        if where == "stream":
            await chat.set("g", "held", {"text": "waits"})
        if where == "not awaited":
            chat.set("g", "held", {"text": "waits"})
        if where == "loop":
            time.sleep(SHORT_SECONDS)  # noqa: ASYNC251 - what is tried
        return OK

    other = await asyncpg.connect(kit.url)
    async with other.transaction():
        await other.execute("select from streams.chat_message for update")
        assert timed_out(await kit.post(handler, timeout_seconds=SHORT_SECONDS))
    await other.close()
    assert await kit.ids() == ["held"]
    assert kit.connections_out() == 0


async def open_pool(kit: StepKit) -> None:
    """The first connection takes longest, and is no part of a handler's short time then."""

    async def reads(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.get("g", "none")
        return OK

    assert (await kit.post(reads)).status_code == 200


async def test_handlers_that_hang_are_no_outage(kit: StepKit) -> None:
    """More of them than there are connections: each gives its own back, and the next step is served."""

    async def hangs(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("g", "1", {"text": "undone"})
        await asyncio.Event().wait()

    async def writes(req: dict[str, Any], context: Any) -> Any:
        return {"status": 200, "body": await context.streams.chatMessage.set("g", "2", {"text": "stored"})}

    steps = step(hangs, timeout_seconds=SHORT_SECONDS), step(writes, name="Writes", path="/writes")
    async with kit.client(*steps) as client:
        answers = await asyncio.gather(*(client.post("/run") for _ in range(6)))
        assert all(timed_out(answer) for answer in answers)
        assert (await client.post("/writes")).status_code == 200
    assert await kit.ids() == ["2"]


async def test_what_was_done_without_a_transaction_stays(kit: StepKit) -> None:
    """And the handler may clean up: a `finally` can still write."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        await chat.set("g", "1", {"text": "writing"})
        try:
            await asyncio.Event().wait()
        finally:
            await chat.set("g", "1", {"text": "broken off"})

    await open_pool(kit)
    assert timed_out(await kit.post(handler, transaction=False, timeout_seconds=SHORT_SECONDS))
    assert await kit.query("select data ->> 'text' from streams.chat_message") == ["broken off"]


async def test_a_handler_that_swallows_its_cancellation_is_not_stored(kit: StepKit) -> None:
    """What it returns after its time is nothing; neither does it run again."""
    runs = 0

    async def handler(req: dict[str, Any], context: Any) -> Any:
        nonlocal runs
        runs += 1
        await context.streams.chatMessage.set("g", "1", {"text": "undone"})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return OK

    assert timed_out(await kit.post(handler, timeout_seconds=SHORT_SECONDS, retries=3))
    assert (await kit.ids(), runs) == ([], 1)


@pytest.mark.parametrize("transaction", [True, False])
async def test_a_handler_that_cannot_be_cancelled_is_given_up(
    kit: StepKit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, transaction: bool
) -> None:
    """Its client is answered, its connection is given back, its calls are refused; it may go on without them."""
    monkeypatch.setattr("tidelog.runtime.watch.CANCELLED_SECONDS", 0.05)
    go, ended = asyncio.Event(), asyncio.Event()
    errors: list[BaseException] = []

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("g", "1", {"text": "hi"})
        await context.db.execute(text("insert into orders values ('o1')"))
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue
        try:
            await context.streams.chatMessage.set("g", "2", {"text": "late"})
        except StepEndedError as error:
            errors.append(error)
        ended.set()
        return OK

    await open_pool(kit)
    client = Client()
    app: Any = kit.app(step(handler, timeout_seconds=SHORT_SECONDS, transaction=transaction))
    running = asyncio.create_task(app(SCOPE, client.receive, client.send))
    await client.answered.wait()
    assert not ended.is_set() and kit.connections_out() == 0
    assert client.sent[0]["status"] == 504 and b"step_timed_out" in client.sent[1]["body"]
    go.set()
    await running
    assert len(client.sent) == 2 and len(errors) == 1
    assert "it is given up" in caplog.text
    assert await kit.ids() == ([] if transaction else ["1"])


@pytest.mark.parametrize("transaction", [True, False])
async def test_a_handler_that_ends_as_it_is_given_up_is_answered_once(
    kit: StepKit, monkeypatch: pytest.MonkeyPatch, transaction: bool
) -> None:
    """Not before the answer is out: a server makes a 500 of an application that returns without one."""
    monkeypatch.setattr("tidelog.runtime.watch.CANCELLED_SECONDS", 0.05)

    async def handler(req: dict[str, Any], context: Any) -> Any:
        while True:
            try:
                await context.streams.chatMessage.set("g", "1", {"text": "hi"})
            except asyncio.CancelledError:
                continue
            except Exception:
                return OK

    client = Client()
    app: Any = kit.app(step(handler, timeout_seconds=SHORT_SECONDS, transaction=transaction))
    await app(SCOPE, client.receive, client.send)
    assert [message.get("status") for message in client.sent] == [504, None]
    assert kit.connections_out() == 0


async def test_the_limit_is_the_steps_own_or_the_settings(kit: StepKit) -> None:
    """A step may raise it, or lift it; without its own it is the server's."""
    kit.settings = kit.settings.model_copy(update={"step_timeout_seconds": SHORT_SECONDS})

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await asyncio.sleep(2 * SHORT_SECONDS)
        return OK

    steps = [
        step(handler),
        step(handler, name="Raised", path="/raised", timeout_seconds=60.0),
        step(handler, name="Lifted", path="/lifted", timeout_seconds=0.0),
    ]
    async with kit.client(*steps) as client:
        answers = await asyncio.gather(*(client.post(path) for path in ("/run", "/raised", "/lifted")))
    assert [answer.status_code for answer in answers] == [504, 200, 200]


async def test_a_plain_handlers_thread_is_let_go_of(kit: StepKit, gate: threading.Event) -> None:
    """The request ends with 504 though the thread goes on, which can do nothing more on streams."""
    errors: list[Exception] = []
    ended = threading.Event()

    def handler(req: dict[str, Any], context: Any) -> Any:
        try:
            context.streams.chatMessage.set("g", "1", {"text": "undone"})
            gate.wait()
            try:
                context.streams.chatMessage.set("g", "2", {"text": "late"})
            except Exception as error:
                errors.append(error)
        finally:
            ended.set()
        return OK

    await open_pool(kit)
    assert timed_out(await kit.post(handler, timeout_seconds=SHORT_SECONDS))
    assert kit.connections_out() == 0 and not ended.is_set()
    gate.set()
    await eventually(ended.is_set)
    assert [type(error) for error in errors] == [StepEndedError]
    assert await kit.ids() == []


async def test_threads_that_never_end_starve_nobody_until_all_are_stuck(
    kit: StepKit, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """Those let go of are replaced, up to a limit; then readiness says so, and steps answer at once. It heals."""
    kit.threads = HandlerThreads(running_max=1, stuck_max=2)

    def hangs(req: dict[str, Any]) -> Any:
        gate.wait()
        return OK

    def quick(req: dict[str, Any]) -> Any:
        return OK

    steps = step(hangs, timeout_seconds=SHORT_SECONDS), step(quick, name="Quick", path="/quick")
    async with kit.client(*steps) as client:
        for _ in range(2):
            assert timed_out(await client.post("/run"))
            assert (await client.post("/quick")).status_code == 200
            assert kit.threads.trouble is None
        assert timed_out(await client.post("/run"))
        assert kit.threads.trouble is not None and "Run" in kit.threads.trouble
        assert "3 such threads, of at most 3" in caplog.text
        answer = await client.post("/quick")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "threads_stuck")
        gate.set()
        await eventually(lambda: kit.threads.trouble is None)
        assert (await client.post("/quick")).status_code == 200


async def test_a_thread_that_is_waited_for_counts_as_the_handlers_time(kit: StepKit, gate: threading.Event) -> None:
    """A step that gets no thread in its time says so like any other."""
    kit.threads = HandlerThreads(running_max=1, stuck_max=1)

    def hangs(req: dict[str, Any]) -> Any:
        gate.wait()
        return OK

    steps = step(hangs), step(hangs, name="Waits", path="/waits", timeout_seconds=SHORT_SECONDS)
    async with kit.client(*steps) as client:
        holding = asyncio.create_task(client.post("/run"))
        assert timed_out(await client.post("/waits"))
        gate.set()
        assert (await holding).status_code == 200
        assert (await client.post("/waits")).status_code == 200


async def test_postgres_ends_the_transaction_of_a_process_that_stands_still(
    kit: StepKit, caplog: pytest.LogCaptureFixture
) -> None:
    """A C call that doesn't return: its rows are free again; it is told as the time-out that it is, and not used on."""
    database = Database(pool_size_max=1, pool_timeout_seconds=60)
    await database.open(kit.url)
    pids = []

    async def handler(req: dict[str, Any], context: Any) -> Any:
        pids.append((await context.db.execute(text("select pg_backend_pid()"))).scalar_one())
        await context.streams.chatMessage.set("g", "1", {"text": "hi"})
        if len(pids) == 1:
            # As the step's limit does, from here on: what came before may take its time.
            await context.db.execute(text("set local idle_in_transaction_session_timeout = '100ms'"))
            time.sleep(2 * SHORT_SECONDS)  # noqa: ASYNC251 - what is tried
            await context.streams.chatMessage.set("g", "2", {"text": "hi"})
        return OK

    steps = step(handler), step(handler, name="Next", path="/next")
    kit.settings = kit.settings.model_copy(update={"step_timeout_seconds": SHORT_SECONDS})
    async with kit.client(steps[0], database=database) as client:
        assert timed_out(await client.post("/run"))
        assert await kit.query("select pid from pg_stat_activity where pid = $1", pids[0]) == []
    kit.settings = kit.settings.model_copy(update={"step_timeout_seconds": 60})
    async with kit.client(steps[1], database=database) as client:
        assert (await client.post("/next")).status_code == 200
    await database.close()
    assert await kit.ids() == ["1"] and pids[0] != pids[1]


async def test_postgres_leaves_a_transaction_alone_for_its_steps_own_limit(kit: StepKit) -> None:
    """What stands behind the limit is as long as the limit of this step, and lifted with it; and for this step only."""
    database = Database(pool_size_max=1, pool_timeout_seconds=60, step_idle_timeout_seconds=90)
    await database.open(kit.url)

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("g", "1", {"text": "hi"})
        shown = await context.db.execute(text("show idle_in_transaction_session_timeout"))
        return {"status": 200, "body": shown.scalar_one()}

    steps = [
        step(handler, name="Raised", path="/raised", timeout_seconds=600.0),
        step(handler, name="Lifted", path="/lifted", timeout_seconds=0.0),
        step(handler),
    ]
    async with kit.client(*steps, database=database) as client:
        shown = [(await client.post(path)).text for path in ("/raised", "/lifted", "/run")]
    await database.close()
    assert shown == ["630s", "0", "90s"]


async def test_a_step_that_blocks_the_event_loop_is_named(
    kit: StepKit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the line, while it does so, and once; one that only waits is not. (A busy machine can stop any of them, too,
    but hardly for the second that it takes to be named.)"""
    monkeypatch.setattr("tidelog.runtime.blocked.BEAT_SECONDS", 0.01)
    told = threading.Event()
    caplog.handler.addFilter(lambda record: told.set() or True if "blocks the event loop" in record.msg else True)

    async def blocks(req: dict[str, Any], context: Any) -> Any:
        told.wait(60)
        return OK

    async def waits(req: dict[str, Any], context: Any) -> Any:
        await asyncio.sleep(0.3)
        return OK

    steps = step(blocks), step(waits, name="Waits", path="/waits")
    watch = BlockedLoopWatch(step_in(steps))
    watch.start()
    try:
        async with kit.client(*steps) as client:
            waiting = asyncio.create_task(client.post("/waits"))
            await client.post("/run")
            assert (await waiting).status_code == 200
    finally:
        watch.stop()
    said = [record.getMessage() for record in caplog.records if "blocks the event loop" in record.msg]
    assert len(said) == 1 and said[0].startswith("step Run blocks") and "threading.py, line" in said[0]


SWALLOWING_STEP = """
import asyncio
config = {"type": "api", "name": "Sleeps", "method": "POST", "path": "/sleeps", "emits": [], "timeoutSeconds": 0}
async def handler(req, context):
    await context.db.connection()
    print("in the handler", flush=True)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
"""
PLAIN_STEP = """
import time
config = {"type": "api", "name": "Sleeps", "method": "POST", "path": "/sleeps", "emits": []}
def handler(req, context):
    print("in the thread", flush=True)
    time.sleep(3600)
"""
TO_THREAD_STEP = """
import asyncio, time
config = {"type": "api", "name": "Sleeps", "method": "POST", "path": "/sleeps", "emits": []}
def sleep():
    print("in the thread", flush=True)
    time.sleep(3600)
async def handler(req, context):
    await asyncio.to_thread(sleep)
"""


@pytest.mark.parametrize("source", [PLAIN_STEP, TO_THREAD_STEP])
async def test_no_thread_holds_up_the_end_of_the_server(
    start_server: StartServer, steps: StepsFolder, source: str
) -> None:
    """Ctrl-C ends it, whatever a handler's thread sleeps for."""
    steps.write("sleeps_step.py", source)
    port = free_port()
    command = [*uvicorn_command(port), "--timeout-graceful-shutdown", "1"]
    server = await start_server(steps.path, port=port, command=command)
    async with httpx.AsyncClient() as client:
        posting = asyncio.create_task(client.post(f"http://127.0.0.1:{port}/sleeps", timeout=60))
        await eventually(lambda: "in the thread" in server.log())
        server.process.send_signal(signal.SIGINT)
        await eventually(lambda: server.process.poll() is not None)
        await asyncio.gather(posting, return_exceptions=True)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["while its client waits", "when its client has gone", "when it was given up"])
async def test_no_handler_that_cannot_be_cancelled_holds_up_the_end_of_the_server(
    start_server: StartServer, steps: StepsFolder, ending: str
) -> None:
    """The event loop would wait for it for ever."""
    limit = "0.1" if ending == "when it was given up" else "0"
    source = SWALLOWING_STEP.replace('"timeoutSeconds": 0', f'"timeoutSeconds": {limit}')
    steps.write("sleeps_step.py", source)
    port = free_port()
    command = [*uvicorn_command(port), "--timeout-graceful-shutdown", "1"]
    server = await start_server(steps.path, port=port, command=command)
    async with httpx.AsyncClient() as client:
        posting = asyncio.create_task(client.post(f"http://127.0.0.1:{port}/sleeps", timeout=60))
        await eventually(lambda: "in the handler" in server.log())
        if ending == "when its client has gone":
            posting.cancel()
        if ending != "while its client waits":
            await eventually(lambda: "it is given up" in server.log())
        server.process.send_signal(signal.SIGINT)
        await eventually(lambda: server.process.poll() is not None)
        await asyncio.gather(posting, return_exceptions=True)
    assert "Traceback" not in server.log()
