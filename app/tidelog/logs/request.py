"""Which request a line is about, wherever it is logged: in a step, in the store, or in a library that it calls."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple


class CurrentRequest(NamedTuple):
    """The step that runs, and the trace id of its request."""

    step: str
    trace_id: str


# Set once for each request, and read only where a line is written.
current_request: ContextVar[CurrentRequest | None] = ContextVar("tidelog_request", default=None)
