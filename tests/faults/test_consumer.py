"""Durable consumers whose processes are killed and frozen."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from tests.consumer_fixtures import ConsumerKit, numbering, open_consumer_kit, start_process
from tests.forks import ForkedProgram

KILLS = 8
PROCESSES = 2


@pytest.fixture
async def kit(database_url: str) -> AsyncIterator[ConsumerKit]:
    async with open_consumer_kit(database_url) as kit:
        with numbering(database_url):
            yield kit


def kill(process: ForkedProgram) -> None:
    """kill -9"""
    process.kill()
    process.wait()


async def at_work(kit: ConsumerKit, processes: list[ForkedProgram]) -> int:
    """Which of the processes had the latest effect: killed, it must be followed by another."""
    pid = await kit.connection.fetchval("select pid from effects order by ordinal desc limit 1")
    return [process.pid for process in processes].index(pid)


@pytest.mark.parametrize("batch_max", [1, 5])
async def test_effects_happen_once_whoever_is_killed_whenever(
    kit: ConsumerKit, seed: int, batch_max: int, tmp_path: Path
) -> None:
    """Two processes of one consumer, one of them killed with -9 again and again, at random moments of their work.

    Every change has its effect once, in the order of the feed.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    start = partial(start_process, kit.url, "mailer", tmp_path / "consumers.log", batch_max=batch_max)
    processes = [start() for _ in range(PROCESSES)]
    try:
        written = 0
        for round in range(KILLS):
            for number in range(rng.randint(5, 25)):
                items = [f"{round}-{number}-{item}" for item in range(rng.randint(1, 4))]
                await kit.post(*items)
                written += len(items)
            await kit.until_effects(rng.randint(max(1, written - 40), written))
            victim = rng.randrange(PROCESSES) if round else await at_work(kit, processes)
            kill(processes.pop(victim))
            processes.append(start())
        await kit.until_effects(written)
        assert await kit.effects() == await kit.log()
        assert await kit.connection.fetchval("select count(distinct pid) > 1 from effects")
    finally:
        for process in processes:
            kill(process)


async def test_a_frozen_process_is_followed_and_does_no_harm_when_it_thaws(kit: ConsumerKit, tmp_path: Path) -> None:
    """SIGSTOP inside its transaction: the server ends that when its time is over, and another process goes on."""
    frozen = start_process(kit.url, "mailer", tmp_path / "consumers.log", timeout_seconds=3)
    follower = None
    try:
        await kit.until_registered("mailer")
        written = 0
        async with asyncio.timeout(120):
            while True:
                for _ in range(20):
                    await kit.post(*(str(item) for item in range(50)))
                    await kit.connection.execute("delete from streams.chat_message")
                await kit.numbered(written := written + 40)
                frozen.send_signal(signal.SIGSTOP)
                if await kit.is_working("mailer"):
                    break
                frozen.send_signal(signal.SIGCONT)
        follower = start_process(kit.url, "mailer", tmp_path / "consumers.log", timeout_seconds=3)
        head = await kit.head()
        await kit.until_position("mailer", head)
        frozen.send_signal(signal.SIGCONT)
        kill(follower)
        await kit.post("last")
        await kit.until_position("mailer", head + 1)
        assert await kit.effects() == await kit.log()
    finally:
        frozen.send_signal(signal.SIGCONT)
        kill(frozen)
        if follower is not None:
            kill(follower)
