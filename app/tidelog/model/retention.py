"""How much of its past a stream keeps, as an author says it. Items are no past: they are never removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tidelog.errors import DeclarationError

SECONDS_MAX = 100 * 366 * 86_400  # a century: what is longer is meant to be "all", which is to say nothing
CHANGES_MAX = 1_000_000  # of each item; what is kept of an item that changes is looked through when it does
_FORMS = '{"seconds": n}, {"changes": n} (the last n of each item), or a number of seconds'


@dataclass(frozen=True, slots=True)
class StreamRetention:
    """One of the two is set."""

    seconds: float | None = None  # changes go when their commit is older
    changes: int | None = None  # of each item the last ones are kept, so many

    @classmethod
    def of(cls, declared: Any) -> StreamRetention | None:
        """As a stream's config says it; None is all. Raises DeclarationError."""
        if declared is None:
            return None
        said = declared if isinstance(declared, dict) else {"seconds": declared}
        if len(said) != 1 or not said.keys() <= {"seconds", "changes"}:
            raise DeclarationError(f"retention must be {_FORMS}, not {declared!r:.80}")
        ((unit, number),) = said.items()
        if isinstance(number, bool) or not isinstance(number, int if unit == "changes" else int | float):
            raise DeclarationError(f"retention must be {_FORMS}, not {declared!r:.80}")
        if unit == "changes":
            if not 1 <= number <= CHANGES_MAX:
                raise DeclarationError(f"retention keeps 1 to {CHANGES_MAX} changes of each item, not {number}")
            return cls(changes=number)
        if not 0 < number <= SECONDS_MAX:  # which NaN isn't, either
            raise DeclarationError(f"retention keeps more than 0 and at most {SECONDS_MAX} seconds, not {number}")
        return cls(seconds=float(number))
