"""Servers that broadcast from memory when told to: ours with its reader fed, Node's ws, picows."""

from __future__ import annotations

import asyncio
import json
import subprocess
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
from tests.node import has_node, install_packages

WS_FOLDER = Path(__file__).parent / "processes" / "ws"

# What our server sends for an update, with the values that real ones have. A peer puts in the group and the number.
TEMPLATE_ITEM = item(0).replace('"n": "0000000"', '"n": "%N%"')
TEMPLATES = {
    None: '{"timestamp":1764000000000.1234,"streamName":"bench","groupId":"%GROUP%","id":"i1",'
    f'"event":{{"type":"update","data":{TEMPLATE_ITEM}}}}}',
    V1: '{"type":"commit","subscriptions":["s"],"position":1234,"transaction":"123456",'
    '"at":"2026-01-01T12:00:00.123456Z","changes":'
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
    """A server; `broadcast` hands it updates and returns when it began (perf_counter_ns), once it has sent them."""

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
    """Where ws is installed; raises CannotRunError without Node or npm."""
    if not has_node():
        raise CannotRunError("Node and npm are not installed")
    try:
        await asyncio.to_thread(install_packages, WS_FOLDER)
    except subprocess.SubprocessError as error:
        raise CannotRunError(f"npm could not install ws: {error}") from error
    return WS_FOLDER
