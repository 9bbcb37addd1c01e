"""What a benchmark is made of: sides that can be measured, and rows that set one side against another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tests.benchmarks.ground import Ground

Figures = Mapping[str, float]  # what one round of one side gave, by name: units last, as in `p99_ms`
Measure = Callable[[], Awaitable[Figures]]


class CannotRunError(Exception):
    """This side can't be had here; the message says why, and goes into the table."""


@dataclass(frozen=True, eq=False)
class Side:
    """Something that is measured. `open` sets it up, and returns the function that measures one round of it.

    What is opened stays for all rounds, idle while other sides are measured.
    """

    name: str
    open: Callable[[Ground], AbstractAsyncContextManager[Measure]]


@dataclass(frozen=True)
class Aim:
    """What a row is to reach."""

    kind: Literal["ratio at least", "ratio at most", "difference at most", "ours at most"]
    limit: float

    def is_reached(self, value: float) -> bool:
        return value >= self.limit if self.kind == "ratio at least" else value <= self.limit


@dataclass(frozen=True)
class Row:
    """One figure of ours against the same figure of another side, and the aim; None: it is only shown."""

    name: str
    says: str
    ours: Side
    against: Side
    figure: str
    aim: Aim | None = None

    def compare(self, ours: float, against: float) -> float:
        """What the aim is about: of each round, then of all."""
        if self.aim is None or self.aim.kind.startswith("ratio"):
            return ours / against if against else float("nan")
        return ours - against if self.aim.kind == "difference at most" else ours


def at_least(ratio: float) -> Aim:
    return Aim("ratio at least", ratio)


def at_most(ratio: float) -> Aim:
    return Aim("ratio at most", ratio)


def within(difference: float) -> Aim:
    return Aim("difference at most", difference)


def below(value: float) -> Aim:
    return Aim("ours at most", value)
