"""Says which step keeps the event loop from everything else: `time.sleep` in an async handler stops every request.

A thread asks the loop for a sign of life, and if there is none looks at what the loop's thread is doing. So it costs no
request anything, sees the line while it runs, and knows of no handler that merely waits.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

BEAT_SECONDS = 0.5  # between two signs of life: each costs some 50 microseconds
BLOCKED_SECONDS = 1.0  # without one; less may be a busy machine's doing
AGAIN_SECONDS = 600.0  # before the same step is named again

logger = logging.getLogger(__name__)


class BlockedLoopWatch:
    """Watches the loop that starts it. `step_in` names the step that one frame of a stack belongs to, if any."""

    def __init__(self, step_in: Callable[[FrameType], str | None]) -> None:
        self._step_in = step_in
        self._stopping = threading.Event()
        self._told: dict[str, float] = {}

    def start(self) -> None:
        self._stopping = threading.Event()
        watched = asyncio.get_running_loop(), threading.get_ident(), self._stopping
        threading.Thread(target=self._run, args=watched, name="tidelog-blocked", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def _run(self, loop: asyncio.AbstractEventLoop, thread: int, stopping: threading.Event) -> None:
        while not stopping.wait(BEAT_SECONDS):
            lives = threading.Event()
            try:
                loop.call_soon_threadsafe(lives.set)
            except RuntimeError:
                return  # the loop is closed
            if not lives.wait(BLOCKED_SECONDS):
                self._look(sys._current_frames().get(thread))
                while not lives.wait(BEAT_SECONDS) and not stopping.is_set():
                    pass

    def _look(self, innermost: FrameType | None) -> None:
        frame = innermost
        while frame is not None and innermost is not None:
            name = self._step_in(frame)
            if name is not None:
                self._tell(name, innermost)
                return
            frame = frame.f_back

    def _tell(self, name: str, frame: FrameType) -> None:
        now = time.monotonic()
        if now - self._told.get(name, -AGAIN_SECONDS) < AGAIN_SECONDS:
            return
        self._told[name] = now
        logger.warning(
            "step %s blocks the event loop, for over %g s now, in %s, line %d: nothing else of this process goes on "
            "meanwhile; await instead, or use asyncio.to_thread or a handler without `async`",
            name,
            BLOCKED_SECONDS,
            frame.f_code.co_filename,
            frame.f_lineno,
        )
