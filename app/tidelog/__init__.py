"""Tidelog: streams that live in Postgres. Here are the names that authors of streams and steps import.

Importing them does not load the server, so that a program which only uses `tidelog.client` stays small.
"""

from typing import TYPE_CHECKING

from tidelog.errors import ItemInvalidError, KeyInvalidError, StreamUnknownError, TidelogError

if TYPE_CHECKING:
    from tidelog.runtime.context import StepContext as Context

__all__ = ["Context", "ItemInvalidError", "KeyInvalidError", "StreamUnknownError", "TidelogError"]


def __getattr__(name: str) -> object:
    if name != "Context":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tidelog.runtime.context import StepContext

    return StepContext
