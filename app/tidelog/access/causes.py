"""Tells the log of an author's function that fails: once for each cause, and without what must not be in a log."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable

from tidelog.logs.redaction import Redaction
from tidelog.logs.seldom import Seldom

TOLD_AGAIN_SECONDS = 600.0  # a cause that lasts; it comes with every request

logger = logging.getLogger("tidelog.auth")


class AuthorError(Exception):
    """What was raised, by its name and with its text redacted; the traceback is the original's."""


class Causes:
    """What was told."""

    def __init__(self) -> None:
        self._seldom = Seldom(TOLD_AGAIN_SECONDS)

    def tell(self, what: str, error: BaseException, secrets: Iterable[str] = ()) -> None:
        """Log, with a traceback, that `what` failed with `error`, unless it was told of late."""
        frames = traceback.extract_tb(error.__traceback__)
        where = (frames[-1].filename, frames[-1].lineno) if frames else None
        if self._seldom.is_news((what, type(error), where)):
            text = Redaction(secrets).text(f"{type(error).__name__}: {error}")
            # Neither its cause nor its notes: they may have the secret, too.
            shown = AuthorError(text).with_traceback(error.__traceback__)
            logger.error("%s failed: %s (told once for this cause)", what, text, exc_info=shown)

    def warn(self, about: object, message: str, *arguments: object) -> None:
        """Log a warning, unless there was one about this of late."""
        if self._seldom.is_news(about):
            logger.warning(message, *arguments)
