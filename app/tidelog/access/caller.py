"""Who sends a request, as far as it is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tidelog.errors import UnauthorizedError


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody. `auth` is what the authentication made of the request: None, or an empty dict, is anybody."""

    auth: Any = None
    expires_at: float | None = None  # seconds since 1970; None: never

    @classmethod
    def of(cls, auth: Any) -> Caller:
        """Of what an author's function answered. Raises UnauthorizedError for False, and for what has expired.

        Its `expires_at`, if it has one, is seconds since 1970, or a datetime with a time zone.
        """
        if auth is False:
            raise UnauthorizedError("the authentication refused this request")
        return cls(auth, _seconds(part_of(auth, "expires_at")))

    @property
    def is_known(self) -> bool:
        """Whether the authentication named somebody."""
        return self.auth is not None and self.auth != {}

    @property
    def subject(self) -> str | None:
        """The user's name, if there is one: what limits and revocations go by."""
        subject = part_of(self.auth, "subject")
        return None if subject is None else str(subject)


ANYBODY = Caller()


def part_of(whole: Any, name: str) -> Any:
    """A dict's value, or an object's attribute; None if it has none."""
    return whole.get(name) if isinstance(whole, Mapping) else getattr(whole, name, None)


def _seconds(moment: Any) -> float | None:
    """Raises TypeError and ValueError for what is no moment: nothing is valid for ever by mistake."""
    if moment is None:
        return None
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ValueError("expires_at is a datetime without a time zone")
        return moment.timestamp()
    if isinstance(moment, bool) or not isinstance(moment, int | float) or math.isnan(moment):
        raise TypeError(f"expires_at is seconds since 1970, or a datetime, not a {type(moment).__name__}")
    return float(min(moment, 1e15))  # an int may be too large for a float
