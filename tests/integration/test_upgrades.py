"""A socket's stream begins with its handshake's answer and has nothing but frames behind it, whatever was sent when."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from tests.conftest import server_starter
from tests.faults.wire import CLOSE, PING, PONG, TEXT, Wire, frame, handshake, text
from tests.harness import Databases, Server, StepsFolder

PROTOCOL_ERROR = 1002
ASK = {"type": "subscribe", "id": "s", "stream": "nothing", "group": "g"}
SLOW = b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n"

# Its first step answers when the second one is called.
STEPS = {
    "gate.py": "import asyncio\n\ngates = []\n",
    "slow_step.py": """
import asyncio
import gate

config = {"type": "api", "name": "Slow", "method": "GET", "path": "/slow", "emits": [], "transaction": False}


async def handler(req, context):
    opened = asyncio.Event()
    gate.gates.append(opened)
    await opened.wait()
    return {"status": 200, "body": "slow"}
""",
    "open_step.py": """
import gate

config = {"type": "api", "name": "Open", "method": "POST", "path": "/open", "emits": [], "transaction": False}


async def handler(req, context):
    for opened in gate.gates:
        opened.set()
    return {"status": 200, "body": len(gate.gates)}
""",
    "said_step.py": """
said = []

config = {"type": "api", "name": "Said", "method": "GET", "path": "/said", "emits": [], "transaction": False}


async def handler(req, context):
    said.append(1)
    return {"status": 200, "body": len(said)}
""",
}


@pytest.fixture(scope="module")
async def server(
    databases: Databases, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    steps = StepsFolder(tmp_path_factory.mktemp("steps"))
    for name, source in STEPS.items():
        steps.write(name, source)
    url = await databases.create(template=template_database)
    async with server_starter(url) as start:
        server = await start(steps_dir=steps.path)
        yield server
        assert "Traceback" not in server.log()
    await databases.drop(url)


async def open_gate(server: Server) -> None:
    """Let the slow step go on, once it has begun."""
    async with server.http() as http:
        while not (await http.post("/open")).json():
            pass


async def called(server: Server) -> int:
    """How often GET /said was called, without this time."""
    async with server.http() as http:
        count: int = (await http.get("/said")).json()
    return count - 1


@pytest.mark.parametrize("together", [True, False], ids=["in one packet", "while it is answered"])
async def test_an_upgrade_behind_a_request_is_answered_behind_it_and_opens_no_socket(
    server: Server, *, together: bool
) -> None:
    """Else that request's answer would be written among the socket's frames."""
    async with Wire.open(server) as wire:
        if together:
            await wire.send(SLOW + handshake("tidelog.v1"))
        else:
            await wire.send(SLOW)
            await wire.send(handshake("tidelog.v1"))
        await wire.send(text(ASK))
        await open_gate(server)
        first = await wire.reader.readuntil(b"slow")
        assert first.startswith(b"HTTP/1.1 200 ")
        rest = await wire.rest()
        assert rest.startswith(b"HTTP/1.1 426 ") and b"connection: close" in rest.lower()
        assert b"before an earlier request on its connection was answered" in rest
        assert rest.count(b"HTTP/1.1 ") == 1


async def test_an_upgrade_behind_a_request_that_has_been_answered_opens_a_socket(server: Server) -> None:
    async with Wire.open(server) as wire:
        await wire.send(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        head = await wire.reader.readuntil(b"\r\n\r\n")
        await wire.reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        await wire.send(handshake("tidelog.v1"))
        assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        await wire.send(text(ASK))
        assert json.loads((await wire.receive())[1])["code"] == "STREAM_ACCESS_DENIED"


async def test_what_comes_with_the_handshake_is_answered_behind_it(server: Server) -> None:
    """Frames in the same packet are neither lost nor answered before the handshake is."""
    async with Wire.open(server) as wire:
        await wire.send(handshake("tidelog.v1") + frame(PING, b"early") + text(ASK))
        assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert await wire.receive() == (PONG, b"early")
        opcode, payload = await wire.receive()
        assert (opcode, json.loads(payload)["code"]) == (TEXT, "STREAM_ACCESS_DENIED")


async def test_a_request_behind_the_handshake_is_no_request(server: Server) -> None:
    """It is a frame, and a bad one: who was refused the upgrade elsewhere can't have it answered here."""
    before = await called(server)
    async with Wire.open(server) as wire:
        await wire.send(handshake("tidelog.v1") + b"GET /said HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        opcode, payload = await wire.receive()
        assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, PROTOCOL_ERROR)
        assert await wire.rest() == b""
    assert await called(server) == before + 1


H2C = b"GET /said HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: h2c\r\n"


async def test_the_body_of_an_upgrade_that_is_not_made_is_no_request(server: Server) -> None:
    """A request that asks for what the server doesn't speak, and has a body, is refused; that is not the next one."""
    before = await called(server)
    body = b"GET /said HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with Wire.open(server) as wire:
        await wire.send(H2C + f"content-length: {len(body)}\r\n\r\n".encode() + body)
        rest = await wire.rest()
        assert rest.startswith(b"HTTP/1.1 400 ") and b"upgrade_with_body" in rest and rest.count(b"HTTP/1.1 ") == 1
    assert await called(server) == before + 1


async def test_a_request_behind_an_upgrade_that_is_not_made_is_answered(server: Server) -> None:
    """Without a body it is plain where that one begins."""
    before = await called(server)
    last = b"GET /said HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    async with Wire.open(server) as wire:
        await wire.send(H2C + b"\r\n" + H2C + b"\r\n" + last)
        assert (await wire.rest()).count(b"HTTP/1.1 200 ") == 3
    assert await called(server) == before + 4


async def test_a_bad_request_is_not_the_answer_to_the_one_before_it(server: Server) -> None:
    async with Wire.open(server) as wire:
        await wire.send(SLOW + b"\x00 nonsense\r\n\r\n")
        assert await wire.rest() == b""
    async with Wire.open(server) as wire:
        await wire.send(b"\x00 nonsense\r\n\r\n")
        assert (await wire.rest()).startswith(b"HTTP/1.1 400 ")
