"""More connections than a process may have: each is served or told why not, and nothing else of the server suffers."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.conftest import StartServer
from tests.faults.wire import Wire, handshake, text
from tests.harness import Server, StepsFolder, eventually, free_port, uvicorn_command
from tidelog.descriptors import HELD_MAX, LIMIT_MAX

STEP = """
import resource

config = {"type": "api", "name": "Limit", "method": "GET", "path": "/limit", "emits": []}


async def handler(req, context):
    await context.streams.alpha.get_group("g")
    return {"status": 200, "body": resource.getrlimit(resource.RLIMIT_NOFILE)}
"""
STREAM = """
config = {"name": "alpha", "schema": {"type": "object"}, "baseConfig": {"storageType": "default"}}
"""
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
FILES = 256
PEOPLE = 600  # more than twice what fits


@asynccontextmanager
async def crowd(server: Server, at_once: int, said: bytes) -> AsyncIterator[list[tuple[Wire, bytes]]]:
    """PEOPLE's connections, of which each says something; with the heads of what they are answered."""
    door = asyncio.Semaphore(at_once)
    async with AsyncExitStack() as stack:

        async def come() -> tuple[Wire, bytes]:
            async with door:
                wire = await stack.enter_async_context(Wire.open(server))
                wire.writer.write(said)
                head = await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 60)
                return wire, head

        yield await asyncio.gather(*(come() for _ in range(PEOPLE)))


async def start_limited(start_server: StartServer, steps: StepsFolder, soft: int, hard: int, *options: str) -> Server:
    """A server in a process that may open so many files."""
    steps.write("alpha_stream.py", STREAM)
    steps.write("limit_step.py", STEP)
    port = free_port()
    command = ["-c", LIMITED.format(soft=soft, hard=hard), *uvicorn_command(port), *options]
    server: Server = await start_server(
        steps.path, port=port, command=command, TIDELOG_LOG_ACCESS="true", TIDELOG_POOL_SIZE_MAX="5"
    )
    return server


async def test_the_soft_limit_is_raised(start_server: StartServer, steps: StepsFolder) -> None:
    """A shell's 1,024 is what programs get that don't ask."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    server = await start_limited(start_server, steps, 128, hard)
    async with server.http() as http:
        allowed = (await http.get("/limit")).json()
    assert allowed == [min(hard, LIMIT_MAX), hard]


# asyncio's own loop accepts a whole backlog before it looks at any: what it closes for want of room is lost in a crowd.
@pytest.mark.parametrize(("loop", "at_once"), [("uvloop", PEOPLE), ("asyncio", 16)])
async def test_each_connection_is_served_or_told_why_not(
    start_server: StartServer, steps: StepsFolder, loop: str, at_once: int
) -> None:
    """At 256 files; meanwhile health is answered, steps get connections to Postgres, and those who are in stay."""
    server = await start_limited(start_server, steps, FILES, FILES, "--loop", loop)
    (told,) = server.records("tidelog.descriptors")
    assert "may open 256 files" in told["message"]
    async with crowd(server, at_once, handshake("tidelog.v1")) as people:
        served = [wire for wire, head in people if head.startswith(b"HTTP/1.1 101 ")]
        refused = [(wire, head) for wire, head in people if head.startswith(b"HTTP/1.1 503 ")]
        assert (len(served) + len(refused), len(served) > 50, len(refused) > 50) == (PEOPLE, True, True)
        for wire, head in refused:
            assert b"retry-after: " in head.lower()
            assert json.loads(await wire.rest())["error"]["code"] == "server_full"
        async with server.http() as http:
            assert (await http.get("/health/live")).status_code == 200
            ready = await http.get("/health/ready")
            assert (ready.status_code, ready.json()["warnings"]) == (200, {"connections": "server_full"})
            answer = await http.get("/limit", headers={"x-trace-id": "late"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_full")
        # Who is in reads from the database, on connections that are opened now.
        await served[0].send(text({"type": "subscribe", "id": "s", "stream": "alpha", "group": "g"}))
        _, message = await served[0].receive()
        assert json.loads(message)["type"] == "snapshot"

    def refusals() -> set[str]:
        return {line["message"] for line in server.records("tidelog.access") if line.get("status") == 503}

    await eventually(lambda: refusals() == {"socket refused", "request"}, 10)
    tellings = [record for record in server.records("tidelog.descriptors") if "refusing" in record["message"]]
    assert len(tellings) == 1
    await eventually(lambda: is_served(server))
    assert "Traceback" not in server.log()


async def is_served(server: Server) -> bool:
    async with server.http() as http:
        return (await http.get("/limit")).status_code == 200


async def test_those_who_say_nothing_keep_nobody_from_an_answer(start_server: StartServer, steps: StepsFolder) -> None:
    """They are told after 2 s, or as soon as others need their places; who says something is told at once."""
    server = await start_limited(start_server, steps, FILES, FILES)
    async with AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(Wire.open(server)) for _ in range(FILES + 2 * HELD_MAX)]
        async with server.http() as http:
            assert (await http.get("/health/live")).status_code == 200
            assert (await http.get("/limit")).json()["error"]["code"] == "server_full"
        told = await asyncio.wait_for(silent[-1].reader.readuntil(b"\r\n\r\n"), 60)
        assert told.startswith(b"HTTP/1.1 503 ")
