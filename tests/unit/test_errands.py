"""Tasks that serve subscriptions end when they are told to."""

from __future__ import annotations

import asyncio

import pytest

from app.feed.errands import Errands


async def test_an_error_of_cleaning_up_does_not_keep_a_task_alive() -> None:
    """A driver whose server is gone raises its own in place of the cancellation."""
    begun = asyncio.Event()

    async def work() -> None:
        assert not begun.is_set()
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            raise ConnectionResetError

    task = asyncio.create_task(Errands(1, lambda _: None).retrying(work, "work"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
