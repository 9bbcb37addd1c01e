"""Programs that a side runs: started, waited for, ended with it."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.harness import ROOT

READY_TIMEOUT_SECONDS = 30
STOP_TIMEOUT_SECONDS = 10
LINE_SIZE_MAX_BYTES = 2**26


class Program:
    """A process that takes JSON lines on its input and answers with JSON lines on its output.

    `ready` is what it said when it had started.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self.ready: Any = None

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ask(self, **question: Any) -> Any:
        """Send a question, wait for its answer; raises RuntimeError if the answer has `error`, or never comes."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question).encode() + b"\n")
        await self.process.stdin.drain()
        return await self.answer()

    async def answer(self) -> Any:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a program ended with {await self.process.wait()}; see its output")
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


@asynccontextmanager
async def program(*command: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> AsyncIterator[Program]:
    """Run a program that says a line of JSON once it is ready; it ends when its input does, or is killed."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=env, stdin=PIPE, stdout=PIPE, limit=LINE_SIZE_MAX_BYTES
    )
    try:
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            running = Program(process)
            running.ready = await running.answer()
        yield running
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
