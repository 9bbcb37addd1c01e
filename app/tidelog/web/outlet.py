"""Where a connection's messages go: straight to the transport if the server allows it, else by ASGI's `send`.

Both send the same bytes in the same order, tell when too much waits to be sent, and close within a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from litestar.types import Scope, Send

from tidelog.feed.cork import Cork
from tidelog.feed.subscription import Outlet as FeedOutlet
from tidelog.web.allowance import Allowance
from tidelog.web.protocol import EXTENSION, SocketProtocol
from tidelog.web.send_outlet import SendOutlet
from tidelog.web.transport_outlet import TransportOutlet


class Outlet(FeedOutlet, Protocol):
    """The sending side of one connection. Nothing here blocks or raises, but for `drained`, which waits.

    What is written after the end goes nowhere.
    """

    is_full: bool

    @property
    def taken(self) -> int:
        """Bytes that the client has taken, counted from anywhere."""
        ...

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait in this process to be sent."""
        ...

    async def drained(self) -> None:
        """Return when it is not full (any more), or has ended."""
        ...

    async def may_go_on(self) -> bool:
        """Return, after a message of the client's, when the next one's turn is; False if it sends too many."""
        ...

    def close(self, code: int, reason: str) -> None:
        """End the connection."""
        ...

    def end(self) -> None:
        """The connection has ended."""
        ...


def open_outlet(
    scope: Scope,
    send: Send,
    cork: Cork,
    high_water: int,
    allowance: Allowance,
    on_full: Callable[[], None],
    on_failure: Callable[[Exception], None],
    on_stuck: Callable[[], None],
) -> Outlet:
    """The outlet of an accepted connection.

    `allowance` is for what the client sends. `on_full` is called when more than `high_water` bytes wait to be sent,
    `on_failure` when something could not be sent though the client is there, `on_stuck` when the connection can't even
    be closed, or has gone.
    """
    protocol = (scope.get("extensions") or {}).get(EXTENSION)
    if isinstance(protocol, SocketProtocol):
        return TransportOutlet(protocol, cork, high_water, allowance, on_full)
    return SendOutlet(send, high_water, allowance, on_full, on_failure, on_stuck)
