"""Servers that broadcast from memory when told to: ours with its reader fed, Node's ws, picows."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.crowd import V1
from tests.benchmarks.ground import Ground
from tests.benchmarks.programs import Program, program
from tests.benchmarks.row import CannotRunError
from tests.benchmarks.serving import serving
from tests.benchmarks.text import item

WS_FOLDER = Path(__file__).parent / "processes" / "ws"
NPM_TIMEOUT_SECONDS = 120

# What our server sends for an update, with the values that real ones have. A peer puts in the group and the number.
TEMPLATE_ITEM = item(0).replace('"n": "0000000"', '"n": "%N%"')
TEMPLATES = {
    None: '{"timestamp":1764000000000.1234,"streamName":"bench","groupId":"%GROUP%","id":"i1",'
    f'"event":{{"type":"update","data":{TEMPLATE_ITEM}}}}}',
    V1: '{"type":"commit","subscriptions":["s"],"position":1234,"at":"2026-01-01T12:00:00.123456Z","changes":'
    f'[{{"op":"update","stream":"bench","group":"%GROUP%","id":"i1","version":1234,"data":{TEMPLATE_ITEM}}}]}}',
}


@dataclass(frozen=True)
class Updates:
    """One update after the other, to the groups in turn; `per_turn` of them in each turn of the server's loop."""

    updates: int
    first: int  # the number of the first; the others count on
    groups: Sequence[str]
    per_turn: int


@dataclass(frozen=True)
class Broadcasting:
    """A server; `broadcast` hands it updates and answers when it began (perf_counter_ns), once it has sent them."""

    pid: int
    port: int
    broadcast: Callable[[Updates], Awaitable[int]]
    joins: bool  # whether clients subscribe; with the peers they only connect


@asynccontextmanager
async def fed(ground: Ground, _dialect: str | None) -> AsyncIterator[Broadcasting]:
    """Our server, with a reader that is fed from memory."""
    control = ground.new_folder("control") / "socket"
    async with serving(ground, app="tests.benchmarks.processes.fed_app:app", BENCH_CONTROL=str(control)) as server:
        reader, writer = await asyncio.open_unix_connection(control)

        async def broadcast(updates: Updates) -> int:
            writer.write(json.dumps(vars(updates)).encode() + b"\n")
            return int(json.loads(await reader.readline())["started_ns"])

        yield Broadcasting(server.process.pid, server.port, broadcast, joins=True)
        writer.close()


@asynccontextmanager
async def ws(_ground: Ground, dialect: str | None) -> AsyncIterator[Broadcasting]:
    """Node's `ws`, sending the same bytes as our server in this dialect."""
    async with program("node", "server.js", cwd=await _ws_folder()) as running:
        yield await _peer(running, TEMPLATES[dialect])


@asynccontextmanager
async def picows(_ground: Ground, dialect: str | None) -> AsyncIterator[Broadcasting]:
    """A bare picows server, sending the same bytes as our server in this dialect."""
    async with program(sys.executable, "-m", "tests.benchmarks.processes.picows_server") as running:
        yield await _peer(running, TEMPLATES[dialect])


async def _peer(running: Program, template: str) -> Broadcasting:
    async def broadcast(updates: Updates) -> int:
        answer = await running.ask(**vars(updates), template=template)
        return int(answer["started_ns"])

    return Broadcasting(running.pid, running.ready["port"], broadcast, joins=False)


async def _ws_folder() -> Path:
    """Where ws is installed, from its lock file; raises CannotRunError without Node or npm."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise CannotRunError("Node and npm are not installed")
    installed, wanted = WS_FOLDER / "node_modules" / "installed-lock.json", WS_FOLDER / "package-lock.json"
    if not installed.exists() or installed.read_bytes() != wanted.read_bytes():
        process = await asyncio.create_subprocess_exec(
            "npm", "ci", "--no-audit", "--no-fund", cwd=WS_FOLDER, stdout=sys.stderr, stdin=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(NPM_TIMEOUT_SECONDS):
            if await process.wait():
                raise CannotRunError("npm could not install ws; see its output")
        installed.write_bytes(wanted.read_bytes())
    return WS_FOLDER
