"""Threads that nothing waits for at the end do their jobs like any executor's."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tidelog.runtime.threads import DaemonThreads


async def test_jobs_are_done_and_their_errors_told() -> None:
    """As asyncio's own executor, too: results, exceptions, more jobs than threads, in at most as many threads."""
    threads = DaemonThreads(3, "test")
    loop = asyncio.get_running_loop()
    names = await asyncio.gather(
        *(loop.run_in_executor(threads, lambda: threading.current_thread().name) for _ in range(50))
    )
    assert set(names) <= {"test_1", "test_2", "test_3"}
    with pytest.raises(ZeroDivisionError):
        await loop.run_in_executor(threads, lambda: 1 / 0)
    threads.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        threads.submit(int)


async def test_a_thread_that_is_free_is_used_again() -> None:
    """A thread is made only where none is free."""
    threads = DaemonThreads(10, "test")
    names = {(await asyncio.wrap_future(threads.submit(threading.current_thread))).name for _ in range(20)}
    assert names == {"test_1"}
    threads.shutdown()


async def test_a_job_that_was_cancelled_in_time_is_not_done() -> None:
    """One that waits for a thread can be called off; the thread goes on with the next."""
    threads, gate, ran = DaemonThreads(1, "test"), threading.Event(), []
    first = threads.submit(gate.wait)
    second = threads.submit(ran.append, "never")
    third = threads.submit(ran.append, "done")
    assert second.cancel()
    gate.set()
    await asyncio.gather(asyncio.wrap_future(first), asyncio.wrap_future(third))
    assert ran == ["done"]
    threads.shutdown()


def test_shutdown_waits_for_nobody() -> None:
    """A job that runs goes on as a daemon; threads without a job end."""
    threads, gate = DaemonThreads(2, "test"), threading.Event()
    job = threads.submit(gate.wait)
    threads.shutdown(wait=True)
    assert not job.done()
    gate.set()
    assert job.result() is True
