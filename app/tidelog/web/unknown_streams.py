"""Streams that clients ask for and nobody declared: told to the log, as the client is told no more than `denied`."""

from __future__ import annotations

import logging
from collections.abc import Collection

NAMES_MAX = 100  # told of; who asks for more asks at random

logger = logging.getLogger("tidelog.subscriptions")


class UnknownStreams:
    """Each name is told once, with those that there are: whoever misspelt it looks there."""

    def __init__(self, declared: Collection[str]) -> None:
        self._declared = declared
        self._told: set[str] = set()

    def note(self, name: str) -> None:
        """A client asked for this one, be it declared or not."""
        if name in self._declared or name in self._told or len(self._told) >= NAMES_MAX:
            return
        self._told.add(name)
        logger.warning(
            "a client asked for the stream %.100r, which is not declared here; declared are: %s (told once for a name)",
            name,
            ", ".join(sorted(self._declared)) or "none",
        )
        if len(self._told) == NAMES_MAX:
            logger.warning("%d streams that are not declared were asked for: others are not told any more", NAMES_MAX)
