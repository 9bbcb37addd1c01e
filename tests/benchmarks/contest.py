"""Measures rows: their sides in turn, round after round, and what came of it."""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.benchmarks.row import CannotRunError, Figures, Measure, Row, Side

if TYPE_CHECKING:
    from tests.benchmarks.ground import Ground

OPEN_TIMEOUT_SECONDS = 300  # the slowest set-up, 100,000 commits to be missed, takes half a minute
ROUND_TIMEOUT_SECONDS = 240  # the slowest round, 15,000 sockets that connect and are watched, takes half a minute

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Spread:
    """Values of several rounds."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def low(self) -> float:
        return min(self.rounds)

    @property
    def high(self) -> float:
        return max(self.rounds)


@dataclass(frozen=True)
class Result:
    """A row that was measured, or why it was not."""

    row: Row
    ours: Spread | None = None
    against: Spread | None = None
    compared: Spread | None = None  # round by round, as the row compares
    trouble: str | None = None

    @property
    def is_reached(self) -> bool | None:
        """Whether the median reaches the aim; None: there is no aim, or nothing was measured."""
        if self.compared is None or self.row.aim is None:
            return None
        return self.row.aim.is_reached(self.compared.median)


@dataclass
class Entry:
    """A side in a contest."""

    side: Side
    measure: Measure | None = None
    trouble: str | None = None
    rounds: list[Figures] = field(default_factory=list)


@dataclass
class Contest:
    """The rows that have one side of ours in common: it and all that it is set against are measured in turn."""

    rows: list[Row]
    entries: dict[Side, Entry]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> list[Contest]:
        """The contests that these rows need, each with only the sides that they need."""
        by_ours: dict[Side, Contest] = {}
        for row in rows:
            contest = by_ours.setdefault(row.ours, cls([], {row.ours: Entry(row.ours)}))
            contest.rows.append(row)
            contest.entries.setdefault(row.against, Entry(row.against))
        return list(by_ours.values())

    async def run(self, ground: Ground, rounds: int, tell: Tell) -> list[Result]:
        """Measure `rounds` rounds (A B A B ...) after one that isn't counted. What fails is in the results."""
        async with AsyncExitStack() as stack:
            for entry in self.entries.values():
                await self._open(entry, ground, stack, tell)
                if entry.side is self.rows[0].ours and entry.trouble:
                    return [self._result(row) for row in self.rows]
            for number in range(rounds + 1):
                for entry in self.entries.values():
                    await self._measure(entry, number, tell)
        return [self._result(row) for row in self.rows]

    async def _open(self, entry: Entry, ground: Ground, stack: AsyncExitStack, tell: Tell) -> None:
        tell(f"setting up {entry.side.name}")
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_SECONDS):
                entry.measure = await stack.enter_async_context(entry.side.open(ground))
        except CannotRunError as error:
            entry.trouble = f"not run: {error}"
        except Exception as error:  # one side's trouble must not cost the figures of all others
            entry.trouble = f"failed: {type(error).__name__}: {error}"
        if entry.trouble:
            tell(f"{entry.side.name}: {entry.trouble}")

    async def _measure(self, entry: Entry, number: int, tell: Tell) -> None:
        if entry.measure is None or entry.trouble:
            return
        try:
            async with asyncio.timeout(ROUND_TIMEOUT_SECONDS):
                figures = await entry.measure()
        except Exception as error:
            entry.trouble = f"failed: {type(error).__name__}: {error}"
            tell(f"{entry.side.name}: {entry.trouble}")
            return
        told = ", ".join(f"{name} {value:,.4g}" for name, value in figures.items())
        tell(f"{entry.side.name}, {f'round {number}' if number else 'not counted'}: {told}")
        if number:
            entry.rounds.append(figures)

    def _result(self, row: Row) -> Result:
        ours, against = self.entries[row.ours], self.entries[row.against]
        troubles = [f"{entry.trouble} ({entry.side.name})" for entry in (ours, against) if entry.trouble]
        if troubles:
            return Result(row, trouble="; ".join(troubles))
        mine = _spread(ours.rounds, row.figure)
        theirs = _spread(against.rounds, row.figure)
        compared = Spread(tuple(map(row.compare, mine.rounds, theirs.rounds)))
        if not all(map(math.isfinite, compared.rounds)):
            return Result(row, mine, theirs, trouble=f"failed: {row.figure} is 0 on one side")
        return Result(row, mine, theirs, compared)


def _spread(rounds: Sequence[Figures], figure: str) -> Spread:
    return Spread(tuple(float(figures[figure]) for figures in rounds))
