"""What went wrong by a fault of ours while subscribers were served: who could not be, why, and how often.

It is contained where it happens: those connections are closed, the others go on, as does the feed. So nobody else hears
of it: it is counted here, and logged once for each cause, not at each commit.
"""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Mapping

from tidelog.feed.subscription import Subscriber

logger = logging.getLogger("tidelog.feed")

Unserved = dict[Subscriber, Exception]  # who could not be served, and why


class UnservedError(Exception):
    """These connections could not be given what was delivered, for these reasons; all others were given it, once."""

    def __init__(self, unserved: Mapping[Subscriber, Exception], delivered: int) -> None:
        """`delivered`: how many were to be served, with these."""
        super().__init__(f"{len(unserved)} connections could not be served")
        self.unserved = unserved
        self.delivered = delivered


class Failures:
    """All of a process: `connections` counts those that were closed, `causes` how often each cause came."""

    def __init__(self) -> None:
        self.connections = 0
        self.causes: Counter[str] = Counter()  # as many as there are lines in the program that can raise

    def note_unserved(self, unserved: Mapping[Subscriber, Exception], *, is_told: bool = False) -> None:
        """These connections are closed. Those of one group or dialect mostly share one error."""
        self.connections += len(unserved)
        for error in {id(error): error for error in unserved.values()}.values():
            self.note(error, "connections are closed (1011), as they could not be served", is_told=is_told)

    def note(self, error: Exception, what: str, *, is_told: bool = False) -> None:
        """Count it, and log what became of it if it is the first of its cause: of its kind, raised at its place."""
        frames = traceback.extract_tb(error.__traceback__, limit=-1)
        cause = f"{type(error).__name__} at {frames[0].filename}:{frames[0].lineno}" if frames else repr(error)
        self.causes[cause] += 1
        if self.causes[cause] == 1 and not is_told:
            logger.error("%s (told once for this cause): %s", what, error, exc_info=error)
