"""The context of the step that runs, for what is called from anywhere in its handler."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from tidelog.errors import NoStepRunningError

running_context: ContextVar[Any] = ContextVar("running_context", default=None)


def context_for(what: str) -> Any:
    """The running step's. Raises NoStepRunningError."""
    context = running_context.get()
    if context is None:
        raise NoStepRunningError(
            f"{what} was called outside of a step: call it in a handler, or in what a handler calls; "
            "other programs have tidelog.open"
        )
    return context
