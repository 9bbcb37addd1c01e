"""Broadcasts from memory to the sockets of a group, which is the path that they connected to: the ceiling in Python.

Takes and answers the same JSON lines as ws/server.js.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import defaultdict

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from tests.benchmarks.processes.lines import say
from tests.benchmarks.text import N_DIGITS

groups: defaultdict[str, set[WSTransport]] = defaultdict(set)


class Socket(WSListener):
    def __init__(self, group: str) -> None:
        self._group = group

    def on_ws_connected(self, transport: WSTransport) -> None:
        groups[self._group].add(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        pass

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        groups[self._group].discard(transport)


async def broadcast(*, updates: int, first: int, names: list[str], per_turn: int, template: str) -> int:
    started_ns = time.perf_counter_ns()
    done = 0
    while done < updates:
        for _ in range(min(per_turn, updates - done)):
            name = names[done % len(names)]
            text = template.replace("%GROUP%", name).replace("%N%", f"{first + done:0{N_DIGITS}d}")
            frame = text.encode()
            for transport in groups[name]:
                transport.send(WSMsgType.TEXT, frame)
            done += 1
        await asyncio.sleep(0)
    return started_ns


def accept(request: WSUpgradeRequest) -> Socket:
    return Socket(request.path.decode().removeprefix("/"))


async def main() -> None:
    server = await ws_create_server(accept, "127.0.0.1", 0, backlog=1024)
    say({"port": server.sockets[0].getsockname()[1]})
    while line := await asyncio.to_thread(sys.stdin.readline):
        question = json.loads(line)
        say({"started_ns": await broadcast(names=question.pop("groups"), **question)})


if __name__ == "__main__":
    uvloop.run(main())
