"""Listens on a channel: `listener.py URL CHANNEL`. Run by the sides that notify with the payload.

Answers like a crowd of one: told to expect so many notifications, it tells when they came.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import asyncpg

from tests.benchmarks.processes.lines import say
from tests.benchmarks.text import find_n


class Listener:
    """Records notifications while some are expected, and drops them otherwise."""

    def __init__(self) -> None:
        self._expected = 0
        self._numbers: list[int] = []
        self._times_ns: list[int] = []

    def expect(self, messages: int) -> None:
        self._expected, self._numbers, self._times_ns = messages, [], []
        say({"ready": True})

    def on_notification(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        if not self._expected:
            return
        self._times_ns.append(time.perf_counter_ns())
        self._numbers.append(find_n(str(payload).encode()))
        if len(self._numbers) == self._expected:
            self._expected = 0
            say({"numbers": self._numbers, "times_ns": self._times_ns})


async def main(url: str, channel: str) -> None:
    listener = Listener()
    connection = await asyncpg.connect(url)
    await connection.add_listener(channel, listener.on_notification)
    say({"ready": True})
    while line := await asyncio.to_thread(sys.stdin.readline):  # until whoever started it is done
        listener.expect(json.loads(line)["messages"])
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
