"""Tells the log of an author's function that fails: once for each cause, and without what must not be in a log."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterable

from tidelog.logs.redaction import Redaction

TOLD_AGAIN_SECONDS = 600.0  # a cause that lasts; it comes with every request
CAUSES_MAX = 100

logger = logging.getLogger("tidelog.auth")


class AuthorError(Exception):
    """What was raised, by its name and with its text redacted; the traceback is the original's."""


class Causes:
    """What was told."""

    def __init__(self) -> None:
        self._told: dict[object, float] = {}

    def tell(self, what: str, error: BaseException, secrets: Iterable[str] = ()) -> None:
        """Log, with a traceback, that `what` failed with `error`, unless it was told of late."""
        frames = traceback.extract_tb(error.__traceback__)
        where = (frames[-1].filename, frames[-1].lineno) if frames else None
        if self._is_news((what, type(error), where)):
            text = Redaction(secrets).text(f"{type(error).__name__}: {error}")
            # Neither its cause nor its notes: they may have the secret, too.
            shown = AuthorError(text).with_traceback(error.__traceback__)
            logger.error("%s failed: %s (told once for this cause)", what, text, exc_info=shown)

    def warn(self, about: object, message: str, *arguments: object) -> None:
        """Log a warning, unless there was one about this of late."""
        if self._is_news(about):
            logger.warning(message, *arguments)

    def _is_news(self, cause: object) -> bool:
        now = time.monotonic()
        if now - self._told.get(cause, -TOLD_AGAIN_SECONDS) < TOLD_AGAIN_SECONDS:
            return False
        if len(self._told) >= CAUSES_MAX:
            self._told.pop(next(iter(self._told)))
        self._told.pop(cause, None)
        self._told[cause] = now
        return True
