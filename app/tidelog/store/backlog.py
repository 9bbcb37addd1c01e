"""Whether committed changes wait for their numbers, and for how long: seen by looking, as they carry no time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tidelog.store.log import BEFORE_EVERYTHING
from tidelog.store.queries import load

if TYPE_CHECKING:
    import asyncpg

UNNUMBERED = load("unnumbered")


class Backlog:
    """What one observer has seen of it. A long open transaction is no part of it: its changes are not visible."""

    def __init__(self) -> None:
        self._snapshot = BEFORE_EVERYTHING  # up to here everything is numbered
        self._number = -1  # no head yet: the first look takes it as one that moved
        self._since: float | None = None  # the first look of those in a row that found the same waiting

    @property
    def waits(self) -> bool:
        """Whether something waited at the last look."""
        return self._since is not None

    @property
    def waiting_seconds(self) -> float:
        """For how long something has waited while nothing was numbered, counted from the look that found it."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    async def look(self, connection: asyncpg.Connection[Any], *, timeout_seconds: float | None = None) -> None:
        row = await connection.fetchrow(UNNUMBERED, self._snapshot, self._number, timeout=timeout_seconds)
        assert row is not None  # noqa: S101 - a select without from
        if row["has_unnumbered"]:
            if self._since is None:
                self._since = time.monotonic()
            return
        self._since = None
        self._snapshot = row["snapshot"] if row["number"] == self._number else row["snapshot_of_head"]
        self._number = row["number"]
