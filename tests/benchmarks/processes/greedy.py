"""A user with many connections who subscribes to large groups, as fast as it is served, until its input ends.

JSON lines: {"port", "token", "connections", "groups"}; answers when all its connections have had a snapshot,
and to {} how many it has had.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from websockets.asyncio.client import connect

from tests.benchmarks.processes.lines import say

AHEAD = 8  # subscriptions that each connection has under way

V1: Any = ["tidelog.v1"]


class Greedy:
    def __init__(self) -> None:
        self.snapshots = 0
        self._served = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, port: int, token: str, connections: int, groups: int) -> None:
        self._tasks = [asyncio.create_task(self._run(port, token, n, groups)) for n in range(connections)]
        waiting = asyncio.create_task(self._served.wait())
        await asyncio.wait([*self._tasks, waiting], return_when=asyncio.FIRST_COMPLETED)
        for task in self._tasks:
            if task.done():
                task.result()

    async def _run(self, port: int, token: str, number: int, groups: int) -> None:
        url = f"ws://127.0.0.1:{port}/?authToken={token}"
        async with connect(url, subprotocols=V1, proxy=None, max_size=None, compression=None) as socket:
            for n in range(AHEAD):
                await self._subscribe(socket, n, (number * AHEAD + n) % groups)
            async for text in socket:
                if '"live"' not in text[:20]:
                    continue
                name = json.loads(text)["subscription"]
                self.snapshots += 1
                if self.snapshots >= len(self._tasks):
                    self._served.set()
                await socket.send(json.dumps({"type": "unsubscribe", "id": name}))
                n, group = map(int, name.split("-"))
                await self._subscribe(socket, n, (group + 7) % groups)

    async def _subscribe(self, socket: Any, n: int, group: int) -> None:
        said = {"type": "subscribe", "id": f"{n}-{group}", "stream": "bench", "group": f"large{group}"}
        await socket.send(json.dumps(said))


async def main() -> None:
    greedy = Greedy()
    say({"ready": True})
    while line := await asyncio.to_thread(sys.stdin.readline):
        said = json.loads(line)
        if said:
            await greedy.begin(**said)
        say({"snapshots": greedy.snapshots})


if __name__ == "__main__":
    asyncio.run(main())
