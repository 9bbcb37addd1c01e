"""For lines of what lasts, and would come with every request: once in a while is enough for whoever reads them."""

from __future__ import annotations

from time import monotonic

MINUTE_SECONDS = 60.0
KEYS_MAX = 100  # remembered; of more, the one that was told of longest ago is news again


class Seldom:
    """Remembers what was told of late, by keys."""

    def __init__(self, seconds: float = MINUTE_SECONDS) -> None:
        """`seconds` is the time until the same is news again."""
        self._seconds = seconds
        self._told_at: dict[object, float] = {}

    def is_news(self, key: object = None) -> bool:
        """Whether this is to be told now; then it isn't for a while."""
        now = monotonic()
        told_at = self._told_at.get(key)
        if told_at is not None and now - told_at < self._seconds:
            return False
        self._told_at.pop(key, None)
        if len(self._told_at) >= KEYS_MAX:
            del self._told_at[next(iter(self._told_at))]
        self._told_at[key] = now
        return True
