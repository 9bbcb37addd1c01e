"""Commits that arrive together go to a socket together: one write for all, instead of one for each.

At idle nothing waits: a cork is held only while commits that have arrived already are gone through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol


class Corked(Protocol):
    """What gathers."""

    def flush(self) -> None:
        """Write what has been gathered."""
        ...


class UnflushedError(Exception):
    """What these had gathered could not be written, for these reasons; all others have been flushed."""

    def __init__(self, unflushed: Mapping[Any, Exception]) -> None:
        super().__init__(f"{len(unflushed)} could not be flushed")
        self.unflushed = unflushed


class Cork:
    """While it is held, outlets gather what they are given; each is flushed when it is let go."""

    __slots__ = ("_gathering", "is_held")

    def __init__(self) -> None:
        self.is_held = False
        self._gathering: list[Corked] = []

    def gather(self, corked: Corked) -> None:
        """Flush this once, when the cork is let go."""
        self._gathering.append(corked)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody may wait in here. Raises UnflushedError."""
        self.is_held = True
        try:
            yield
        finally:
            self.is_held = False
            gathering, self._gathering = self._gathering, []
            _flush(gathering)


def _flush(gathering: Sequence[Corked]) -> None:
    unflushed: dict[Corked, Exception] = {}
    waiting = iter(gathering)
    while True:  # one iterator for all, so that none costs more for another's failing
        try:
            for corked in waiting:
                corked.flush()
            break
        except Exception as error:
            unflushed[corked] = error
    if unflushed:
        raise UnflushedError(unflushed)
