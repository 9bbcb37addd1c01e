"""A client that goes away takes its step back, with a real server and a real connection that closes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import uvicorn
from sqlalchemy import text

from tests.integration.step_fixtures import StepKit, StepTemplate, open_steps, step

OK = {"status": 200, "body": "ok"}
REQUEST = b"POST /run HTTP/1.1\r\nhost: steps\r\ncontent-length: 0\r\n\r\n"


@pytest.fixture
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template) as kit:
        yield kit


@asynccontextmanager
async def served(kit: StepKit, handler: Any, **parts: Any) -> AsyncIterator[int]:
    """The step on a real server; returns its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(kit.app(step(handler, **parts)), log_config=None, timeout_graceful_shutdown=10)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def no_step_runs(kit: StepKit) -> None:
    """Wait until the pool has its connections back."""
    while kit.connections_out() > 0:  # noqa: ASYNC110 - the pool has no event for it
        await asyncio.sleep(0)


async def test_a_client_that_goes_away_rolls_its_step_back(kit: StepKit) -> None:
    """The handler is cancelled where it stands, and nothing is stored."""
    wrote, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        wrote.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return OK

    async with served(kit, handler) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        await wrote.wait()
        writer.close()
        await cancelled.wait()
        await no_step_runs(kit)
    assert await kit.ids() == []


@pytest.mark.parametrize(("gone", "ids"), [(True, []), (False, ["1"])])
async def test_a_client_that_went_away_from_a_quick_step_rolls_it_back(
    kit: StepKit, monkeypatch: pytest.MonkeyPatch, gone: bool, ids: list[str]
) -> None:
    """It is looked for before the commit, if the handler returned before it was listened to."""
    monkeypatch.setattr("tidelog.runtime.watch.WATCH_AFTER_SECONDS", 3600)
    messages = [{"type": "http.request"}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        if not gone and len(messages) == 1:
            await asyncio.Event().wait()
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        return OK

    scope: Any = {"type": "http", "method": "POST", "path": "/run", "headers": [], "query_string": b""}
    await kit.app(step(handler))(scope, receive, send)
    assert (sent[0]["status"] == 200) is not gone
    assert await kit.ids() == ids
    assert kit.connections_out() == 0


async def test_an_error_is_told_whether_the_client_has_gone_or_not(
    kit: StepKit, caplog: pytest.LogCaptureFixture
) -> None:
    """A quick handler's bug is in the log, though nobody waits for the answer any more."""
    messages = [{"type": "http.request"}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    async def handler(req: dict[str, Any]) -> Any:
        raise ValueError("a bug")

    scope: Any = {"type": "http", "method": "POST", "path": "/run", "headers": [], "query_string": b""}
    await kit.app(step(handler))(scope, receive, send)
    assert sent[0]["status"] == 500
    assert "a bug" in caplog.text


async def test_a_handler_that_swallows_its_cancellation_is_not_committed(kit: StepKit) -> None:
    """Whatever it returns after its client has gone, its step is rolled back."""
    wrote, swallowed = asyncio.Event(), asyncio.Event()

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        wrote.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()
        return OK

    async with served(kit, handler) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        await wrote.wait()
        writer.close()
        await swallowed.wait()
        await no_step_runs(kit)
    assert await kit.ids() == []


@pytest.mark.parametrize("use_db", [False, True])
async def test_a_statement_that_waits_in_the_database_is_broken_off(kit: StepKit, use_db: bool) -> None:
    """A step that waits for a lock gives its connection back when its client goes away."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        if use_db:
            await context.db.execute(text("select pg_sleep(100)"))
        else:
            await context.streams.chatMessage.set("general", "2", {"text": "waits"})
        return OK

    if not use_db:
        await kit.query("insert into streams.chat_message (group_id, id, data) values ('general', '2', '{}')")
    blocker = await asyncpg.connect(kit.url)
    async with blocker.transaction(), served(kit, handler) as port:
        await blocker.execute("select from streams.chat_message for update")
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        waits = (
            "select pid from pg_stat_activity where datname = current_database() "
            "and wait_event_type in ('Lock', 'Timeout') and state = 'active'"
        )
        while not await kit.query(waits):
            pass
        writer.close()
        while await kit.query(waits):
            pass
        await no_step_runs(kit)
    await blocker.close()
    assert await kit.ids() == ([] if use_db else ["2"])


async def test_a_plain_handlers_thread_can_do_nothing_more_when_its_client_has_gone(kit: StepKit) -> None:
    """A thread can't be cancelled, but its next call on a stream is refused, and nothing is stored."""
    wrote, ended = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    errors: list[Exception] = []

    def handler(req: dict[str, Any], context: Any) -> Any:
        context.streams.chatMessage.set("general", "1", {"text": "hi"})
        loop.call_soon_threadsafe(wrote.set)
        asyncio.run_coroutine_threadsafe(no_step_runs(kit), loop).result()
        try:
            context.streams.chatMessage.set("general", "2", {"text": "late"})
        except Exception as error:
            errors.append(error)
        loop.call_soon_threadsafe(ended.set)
        return OK

    async with served(kit, handler) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        await wrote.wait()
        writer.close()
        await ended.wait()
    assert [type(error).__name__ for error in errors] == ["StepEndedError"]
    assert await kit.ids() == []


async def test_a_client_that_goes_away_while_sending_never_starts_its_step(kit: StepKit) -> None:
    """Half a body is no request."""
    ran: list[Any] = []

    async def handler(req: dict[str, Any]) -> Any:
        ran.append(req)
        return OK

    async with served(kit, handler) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /run HTTP/1.1\r\nhost: steps\r\ncontent-length: 10\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        assert b" 200 " in await reader.readline()
        writer.close()
    assert len(ran) == 1


async def test_one_connection_serves_many_requests(kit: StepKit) -> None:
    """Watching for the client's going does not eat its next request."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        return {"status": 200, "body": await context.streams.chatMessage.set("g", "1", {"text": req["rawBody"]})}

    async with served(kit, handler) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for n in range(20):
            body = b'"%d"' % n
            writer.write(b"POST /run HTTP/1.1\r\nhost: s\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            assert b" 200 " in head and b"%d" % n in await reader.readexactly(length)
        writer.close()


class Foreign:
    """What servers that are not written in Python have for a future: it can be awaited and cancelled, and no more."""

    def __init__(self, message: dict[str, Any] | None) -> None:
        self._message = message
        self.is_cancelled = False

    def __await__(self) -> Foreign:
        return self

    def __next__(self) -> None:
        if self._message is not None:
            raise StopIteration(self._message)

    def cancel(self) -> None:
        self.is_cancelled = True


@pytest.mark.parametrize("has_gone", [False, True])
async def test_a_server_may_have_futures_of_its_own(kit: StepKit, has_gone: bool) -> None:
    """Granian's: nothing is left waiting for the client behind a step that was committed."""
    asked = Foreign({"type": "http.disconnect"} if has_gone else None)
    coming = [Foreign({"type": "http.request", "body": b"{}", "more_body": False}), asked]
    sent: list[Any] = []

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("general", "1", {"text": "hi"})
        return OK

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "method": "POST", "path": "/run", "raw_path": b"/run", "query_string": b""}
    scope |= {"headers": [], "scheme": "http", "server": ("steps", 80), "client": ("client", 1), "state": {}}
    await kit.app(step(handler))(scope, lambda: coming.pop(0), send)  # type: ignore[arg-type, return-value]
    assert asked.is_cancelled is not has_gone
    assert await kit.ids() == ([] if has_gone else ["1"])
