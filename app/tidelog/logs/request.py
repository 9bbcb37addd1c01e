"""Which request a line is about, wherever it is logged: in a step, in the store, or in a library that it calls."""

from __future__ import annotations

import os
import random
from contextvars import ContextVar
from typing import NamedTuple

# No secret: whoever sends a request may say its trace id. The system's own randomness lets other threads go first.
_random = random.Random()  # noqa: S311
os.register_at_fork(after_in_child=_random.seed)


class CurrentRequest(NamedTuple):
    """The step that runs, and the trace id of its request."""

    step: str
    trace_id: str


def new_trace_id() -> str:
    """One that nobody else has: 32 hexadecimal digits, as in W3C's Trace Context."""
    return f"{_random.getrandbits(128):032x}"


# Set once for each request, and read only where a line is written.
current_request: ContextVar[CurrentRequest | None] = ContextVar("tidelog_request", default=None)
