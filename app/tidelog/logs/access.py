"""An answered request, as the access log tells it."""

from __future__ import annotations

import logging
from typing import NamedTuple

ACCESS_LOGGER = "tidelog.access"
access_logger = logging.getLogger(ACCESS_LOGGER)


class Access(NamedTuple):
    """`path` is as it was sent, and printable; `status` is None if there was no answer."""

    created: float  # when it was answered, in seconds of the epoch
    method: str
    path: str
    status: int | None
    duration_ms: float
    size_bytes: int
    step: str | None
    trace_id: str

    @property
    def message(self) -> str:
        return f"{self.method} {self.path} {self.status or 'without an answer'}"


class AccessRecord(logging.LogRecord):
    """For handlers of any kind: its fields are attributes, as those of `extra` are."""

    def __init__(self, access: Access) -> None:
        super().__init__(ACCESS_LOGGER, logging.INFO, "", 0, access.message, None, None)
        vars(self).update(access._asdict())
        self.access = access
