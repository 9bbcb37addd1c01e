"""Writes lines to standard error: access lines together, all others at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from typing import TextIO

from tidelog.logs.access import Access
from tidelog.logs.lines import LineFormatter

# Of what is written at once: a pipe keeps so much together, whoever else writes to it (PIPE_BUF, pipe(7)).
WRITE_SIZE_MAX = 4096
# They are formatted and written many at a time: alone, each would find the processor's caches full of the step's work.
# No longer than somebody who watches the log would notice, and no more than are written in a millisecond.
ACCESS_WAITS_SECONDS = 0.1
ACCESS_WAITING_MAX = 100


class LineHandler(logging.StreamHandler):  # type: ignore[type-arg] # generic in the stubs only
    """One write for each line, so that lines of several processes don't mix; or for as many as still don't."""

    def __init__(self, stream: TextIO, formatter: LineFormatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self._line_of = formatter.access
        self._waiting: list[Access] = []

    def access(self, access: Access) -> None:
        """Write the line of an answered request, soon. To be called where an event loop runs."""
        with self.lock:  # type: ignore[union-attr] # None only in handlers without one
            if not self._waiting:
                asyncio.get_running_loop().call_later(ACCESS_WAITS_SECONDS, self.flush)
            self._waiting.append(access)
            if len(self._waiting) >= ACCESS_WAITING_MAX:
                self.flush()

    def emit(self, record: logging.LogRecord) -> None:
        """Behind what waits: lines stand in the order of what happened."""
        if self._waiting:
            self.flush()
        super().emit(record)

    def flush(self) -> None:
        """Write what waits. The server's end does, and Python's (logging.shutdown)."""
        with self.lock:  # type: ignore[union-attr]
            waiting, self._waiting = self._waiting, []
            try:
                for text in _joined(map(self._line_of, waiting)):
                    self.stream.write(text)
                super().flush()
            except (OSError, ValueError):
                """Nobody reads what can't be written; and a step must not fail for it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's
        """As in flush."""


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """As many lines at a time as a pipe keeps together; ASCII, or columns for people."""
    text = ""
    for line in lines:
        if text and len(text) + len(line) >= WRITE_SIZE_MAX:
            yield text
            text = ""
        text += line + "\n"
    if text:
        yield text
