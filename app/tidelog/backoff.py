"""How long to wait before trying the database again."""

import asyncio
import random

FIRST_SECONDS = 0.1
MAX_SECONDS = 5.0


class Backoff:
    """Doubling delays with jitter, so that the processes of a restarted database don't return in step."""

    def __init__(self) -> None:
        self._ceiling = FIRST_SECONDS

    async def wait(self) -> None:
        """Wait for the next delay. Raises CancelledError at once in a task that has been told to end.

        A driver that fails while it cleans up after a cancellation raises its own error in place of that one.
        """
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        delay = self._ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        self._ceiling = min(self._ceiling * 2, MAX_SECONDS)
        await asyncio.sleep(delay)

    def reset(self) -> None:
        self._ceiling = FIRST_SECONDS
