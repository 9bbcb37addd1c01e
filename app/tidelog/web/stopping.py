"""That the server stops, told to a request under way: its server breaks it off if it takes too long."""

from __future__ import annotations

from typing import Any, cast

_STOPPING = "tidelog.stopping"  # in the request's `state`, which copies of its scope have as well


def note_stop(scope: Any) -> None:
    """The server will wait for the answer to this request, and then cancel it."""
    scope["state"][_STOPPING] = True


def is_stopping(scope: Any) -> bool:
    """Whether who cancels this request is its server, as it stops. Only our protocol tells; else it is unknown."""
    return _STOPPING in cast("dict[str, Any]", scope.get("state", {}))
