"""How long to wait before trying the database again."""

import random

FIRST_SECONDS = 0.1
MAX_SECONDS = 5.0


class Backoff:
    """Doubling delays with jitter, so that the processes of a restarted database don't return in step."""

    def __init__(self) -> None:
        self._ceiling = FIRST_SECONDS

    def next_delay_seconds(self) -> float:
        delay = self._ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        self._ceiling = min(self._ceiling * 2, MAX_SECONDS)
        return delay

    def reset(self) -> None:
        self._ceiling = FIRST_SECONDS
