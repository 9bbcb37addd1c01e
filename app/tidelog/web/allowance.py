"""How much a client may send over a WebSocket: a token bucket, and what is said of those that send more."""

from __future__ import annotations

import logging
from time import monotonic

from tidelog.logs.seldom import Seldom

POLICY_VIOLATION = 1008  # RFC 6455 7.4.1: "when there is no other more suitable status code"

logger = logging.getLogger(__name__)


class Allowance:
    """`burst` at once, and `per_second` for ever. A client that was quiet may have saved up a second burst.

    Use: subtract what has come from `left`; if that is less than 0, ask `may_go_on`. So most frames cost no clock.
    """

    __slots__ = ("_at", "_burst", "left", "per_second")

    def __init__(self, burst: float, per_second: float) -> None:
        self.left = burst
        self.per_second = per_second
        self._burst = burst
        self._at = monotonic()

    def may_go_on(self) -> bool:
        """Add what was earned since it was last added; returns whether that is enough."""
        now = monotonic()
        self.left = min(self._burst, self.left + (now - self._at) * self.per_second)
        self._at = now
        return self.left >= 0

    @property
    def reason(self) -> str:
        """What a client that has sent more is told, behind POLICY_VIOLATION."""
        return f"more than {self.per_second:g} frames a second for too long: send less"


class Floods:
    """Tells the log of clients that were closed for sending too much."""

    def __init__(self) -> None:
        self._count = 0
        self._seldom = Seldom()  # a line for each would let them flood the log, too

    def note(self, client: object) -> None:
        self._count += 1
        if self._seldom.is_news():
            logger.warning(
                "a client at %s was closed (1008), as it sent too many frames: the %d. of this process "
                "(told once a minute; the bound is TIDELOG_SOCKET_FRAMES_PER_SECOND_MAX)",
                client,
                self._count,
            )


floods = Floods()
