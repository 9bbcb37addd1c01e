"""Places for those who wait: however many one client takes, there is one for another."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tidelog.errors import ReadsBusyError
from tidelog.store.reads import Place
from tidelog.web.reads.parameters import Awaited
from tidelog.web.reads.waiting import WAITERS_MAX, Waiting


class Reads:
    """A log in which the transaction is still at work."""

    async def transaction_state(self, _transaction: int) -> dict[str, Any]:
        return {"number": None, "is_over": False}

    async def place(self) -> Place:
        return Place(7, "epoch", 0)


async def test_a_crowd_of_waiters_leaves_places_for_everybody_else() -> None:
    """Each takes as many as it gets, one after the other; then somebody new comes, and one more."""
    waiting = Waiting(Reads(), lambda: 7)  # type: ignore[arg-type]
    tasks = []

    async def take_all(client: str) -> int:
        taken = 0
        while True:
            task = asyncio.create_task(waiting.until_passed(Awaited(transaction=5), client))
            await asyncio.sleep(0)
            if task.done():
                with pytest.raises(ReadsBusyError):
                    task.result()
                return taken
            tasks.append(task)
            taken += 1

    counts = [await take_all(f"greedy {number}") for number in range(4)]
    assert counts[0] == WAITERS_MAX // 2 and sorted(counts, reverse=True) == counts
    assert await waiting.until_passed(Awaited(position=7), "new") == 7
    assert await take_all("new") > 0 and sum(counts) < WAITERS_MAX
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await take_all("greedy 0") == WAITERS_MAX // 2  # nothing is kept of those who have gone
    for task in tasks:
        task.cancel()
