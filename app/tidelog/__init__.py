"""Tidelog: streams that live in Postgres. Here are the names that other people's programs import.

Importing them neither connects nor loads the server: each is loaded when it is first asked for, so that a program which
only uses the client stays small.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from tidelog.errors import (
    CommitUnknownError,
    DatabaseUnavailableError,
    ItemConflictError,
    ItemInvalidError,
    KeyInvalidError,
    NoConnectionError,
    OperationInvalidError,
    StreamUnknownError,
    TidelogError,
    UnauthorizedError,
)

if TYPE_CHECKING:
    from tidelog.client import Client
    from tidelog.config import TidelogConfig
    from tidelog.consumer import consume
    from tidelog.model.stream import Stream
    from tidelog.outside import open as open
    from tidelog.plugin import TidelogPlugin
    from tidelog.runtime.context import StepContext as Context
    from tidelog.runtime.context import Streams
    from tidelog.runtime.outside_streams import OutsideStreams

__all__ = [
    "Client",
    "CommitUnknownError",
    "Context",
    "DatabaseUnavailableError",
    "ItemConflictError",
    "ItemInvalidError",
    "KeyInvalidError",
    "NoConnectionError",
    "OperationInvalidError",
    "OutsideStreams",
    "Stream",
    "StreamUnknownError",
    "Streams",
    "TidelogConfig",
    "TidelogError",
    "TidelogPlugin",
    "UnauthorizedError",
    "consume",
]  # not `open`: `from tidelog import *` must not hide Python's

_PLACES = {
    "Client": ("tidelog.client", "Client"),
    "Context": ("tidelog.runtime.context", "StepContext"),
    "OutsideStreams": ("tidelog.runtime.outside_streams", "OutsideStreams"),
    "Stream": ("tidelog.model.stream", "Stream"),
    "Streams": ("tidelog.runtime.context", "Streams"),
    "TidelogConfig": ("tidelog.config", "TidelogConfig"),
    "TidelogPlugin": ("tidelog.plugin", "TidelogPlugin"),
    "consume": ("tidelog.consumer", "consume"),
    "open": ("tidelog.outside", "open"),
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)
