"""The record of an answered request. It has its fields as they are, and is made into a line once."""

from __future__ import annotations

import logging

ACCESS_LOGGER = "tidelog.access"
access_logger = logging.getLogger(ACCESS_LOGGER)


class AccessRecord(logging.LogRecord):
    """For handlers of any kind: the fields are attributes, as `extra` makes them, and the message has the main ones.

    `path` is as it was sent, and printable; `status` is None if there was no answer.
    """

    def __init__(
        self,
        method: str,
        path: str,
        status: int | None,
        duration_ms: float,
        size_bytes: int,
        step: str | None,
        trace_id: str,
    ) -> None:
        super().__init__(ACCESS_LOGGER, logging.INFO, "", 0, "request", None, None)
        self.method = method
        self.path = path
        self.status = status
        self.duration_ms = duration_ms
        self.size_bytes = size_bytes
        self.step = step
        self.trace_id = trace_id

    def getMessage(self) -> str:  # noqa: N802 - logging's
        return f"{self.method} {self.path} {self.status or 'without an answer'}"
