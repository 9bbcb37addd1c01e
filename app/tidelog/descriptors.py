"""How many files and sockets this process may have open, and from where on it has no room for more connections.

At the limit the event loop can't accept: uvloop then closes new connections unanswered, asyncio leaves them waiting.
So some descriptors are kept: for the connections to Postgres and for files, and for telling clients why they are
refused. Open connections aren't counted: a new descriptor is the lowest free number (POSIX, open(2)), so its number
says how many are in use.
"""

from __future__ import annotations

import logging
import os
import resource
import time
from contextlib import suppress

# The soft limit is often 1,024, for programs that use select(). 65,536 sockets take 1.4 GB of memory; and programs that
# a step starts inherit the limit: some of them close every possible descriptor first. A higher soft limit stays.
LIMIT_MAX = 65_536
LIMITS_TRIED = (LIMIT_MAX, 10_240)  # macOS says that there is no hard limit, and refuses more than the second
FILES_MAX = 64  # beside connections: the program's own, snapshots' temporary files, what the authors' files open
HELD_MAX = 64  # connections past the limit that are told why at a time
ROOM_WARNED = 1000  # room for fewer connections than this is told at start
TOLD_AGAIN_SECONDS = 60.0  # without a refusal, before the log tells of the next one

logger = logging.getLogger("tidelog.descriptors")


class Descriptors:
    """Those of this process. Nothing is refused before `prepare`."""

    def __init__(self) -> None:
        self.limit = 0
        self._served_below: int | None = None
        self._refused_at: float | None = None

    def prepare(self, own: int) -> None:
        """Raise the limit; keep `own` descriptors for connections to Postgres. Warns if little remains."""
        self.limit = _raise_limit()
        # With a limit that is too low for all that, half of it serves: it should not keep a small server from working.
        self._served_below = max(self.limit - own - FILES_MAX - HELD_MAX, self.limit // 2)
        room = self._served_below - _lowest_free(self.limit)
        if room < ROOM_WARNED:
            logger.warning(
                "this process may open %d files, which is room for about %d connections; more are refused (503, "
                "server_full). Raise the hard limit: ulimit -Hn, LimitNOFILE= in systemd, --ulimit nofile= of Docker",
                self.limit,
                max(room, 0),
            )

    def has_room_for(self, descriptor: int) -> bool:
        """Whether a new connection with this descriptor may be served."""
        return self._served_below is None or descriptor < self._served_below

    def note_refusal(self) -> None:
        """A connection was refused: the log is told when that begins."""
        now = time.monotonic()
        if self._refused_at is None or now - self._refused_at > TOLD_AGAIN_SECONDS:
            logger.warning("refusing new connections with 503: %s", self._trouble)
        self._refused_at = now

    @property
    def trouble(self) -> str | None:
        """Why new connections are refused at this moment."""
        return None if self.has_room_for(_lowest_free(self.limit)) else self._trouble

    @property
    def _trouble(self) -> str:
        return (
            f"server_full: {self._served_below} of {self.limit} files and sockets are open, the rest is kept: "
            "raise the hard limit of open files, or start more processes"
        )


def _raise_limit() -> int:
    """Raise the soft limit as far as it is sensible and allowed; returns what it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in LIMITS_TRIED:
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            break
        with suppress(ValueError, OSError):
            wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
            break
    return LIMIT_MAX if soft == resource.RLIM_INFINITY else soft


def _lowest_free(limit: int) -> int:
    try:
        descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return limit
    os.close(descriptor)
    return descriptor


descriptors = Descriptors()
