"""One read of tiny requests, chunks or headers takes many turns of the loop, and is answered as ever."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from tests.unit.test_connection_ends import Transport
from tidelog.web import intake
from tidelog.web.http_protocol import PIPELINE_MAX, SLICE_BYTES, RequestProtocol

TURNS_MIN = 20
SIZE_BYTES = 256 * 1024  # of a read
GET = b"GET /%d HTTP/1.1\r\n\r\n"


class Answering:
    """An application that notes what it is asked, and answers nothing but OK."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.body = b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        while (message := await receive()).get("more_body"):
            self.body += message["body"]
        self.body += message.get("body", b"")
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def open_protocol(app: Any) -> tuple[RequestProtocol, Transport]:
    protocol = RequestProtocol(Config(app, log_config=None), ServerState(), {})
    transport = Transport()
    protocol.connection_made(transport)
    return protocol, transport


async def turns_until(check: Any) -> int:
    turns = 0
    async with asyncio.timeout(60):
        while not check():
            await asyncio.sleep(0)
            turns += 1
    return turns


async def test_requests_without_number_wait_their_turns() -> None:
    """However many one read brings, only those are taken apart that may wait, and each is answered, in order."""
    app = Answering()
    protocol, transport = open_protocol(app)
    requests = 5000
    protocol.data_received(b"".join(GET % number for number in range(requests)))
    waiting = 0

    def all_answered() -> bool:
        nonlocal waiting
        waiting = max(waiting, len(protocol.pipeline))
        return transport.written.count(b"HTTP/1.1 204 ") == requests

    await turns_until(all_answered)
    assert waiting <= PIPELINE_MAX + SLICE_BYTES // len(GET)
    assert app.paths == [f"/{number}" for number in range(requests)]
    protocol.connection_lost(None)


async def test_a_body_of_tiny_chunks_takes_many_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine on which a slice takes a tenth of a turn."""
    monkeypatch.setattr(intake, "monotonic", itertools.count(0.0, intake.TURN_SECONDS / 10).__next__)
    app = Answering()
    protocol, transport = open_protocol(app)
    head = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    body = b"x" * (SIZE_BYTES // 6)
    protocol.data_received(head + b"1\r\nx\r\n" * len(body) + b"0\r\n\r\n")
    assert await turns_until(lambda: b"HTTP/1.1 204 " in transport.written) >= TURNS_MIN
    assert app.body == body
    protocol.connection_lost(None)


@pytest.mark.parametrize("line", [b"a:\r\n", b"a: b\r\n"])
async def test_a_head_of_tiny_headers_is_refused_before_all_of_it_is_taken(line: bytes) -> None:
    app = Answering()
    protocol, transport = open_protocol(app)
    protocol.data_received(b"GET / HTTP/1.1\r\n" + line * (SIZE_BYTES // len(line)))
    await turns_until(transport.is_closing)
    assert transport.written.startswith(b"HTTP/1.1 431 ")
    assert not app.paths and protocol._received < SIZE_BYTES
    protocol.connection_lost(None)
