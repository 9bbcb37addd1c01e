"""All that decides about who comes in, whichever way: made once, and asked by sockets and steps alike."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from litestar.types import Scope

from tidelog.access.authors import AuthorFunctions
from tidelog.access.causes import Causes
from tidelog.access.decisions import Access, Mode
from tidelog.runtime.threads import HandlerThreads
from tidelog.web.callers import Callers
from tidelog.web.exposure import Exposure


@dataclass(frozen=True, slots=True)
class Admission:
    """Who asks, and what they may have."""

    callers: Callers
    access: Access
    exposure: Exposure | None = None  # None: all that has no rule is open

    @classmethod
    def of_all(cls, streams: Collection[str]) -> Admission:
        """Everybody may have these streams."""
        return cls(Callers(), Access(streams, AuthorFunctions(HandlerThreads(), 1), Causes()))

    def mode_of(self, scope: Scope) -> Mode:
        """Who may have a stream without a rule, of those who come so."""
        return "open" if self.exposure is None else self.exposure.mode_of(scope)
