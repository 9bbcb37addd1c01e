"""The driver's connection, as all of Tidelog's are opened: one whose network went silent is noticed at both ends."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import asyncpg

from app.store.queries import load

CLEAN_SESSION = load("clean_session")

# A peer that answers nothing is found dead after 5 + 3 x 2 seconds, by Postgres (a vanished client must not keep its
# locks) and by us (NATs and firewalls drop quiet connections without a word).
KEEPALIVE_IDLE_SECONDS = 5
KEEPALIVE_INTERVAL_SECONDS = 2
KEEPALIVE_COUNT = 3
# Keep-alives are not sent while something that was sent waits for its acknowledgement: tcp(7), TCP_USER_TIMEOUT.
UNACKNOWLEDGED_SECONDS = 15

KEEPALIVE_SETTINGS = {
    "tcp_keepalives_idle": str(KEEPALIVE_IDLE_SECONDS),
    "tcp_keepalives_interval": str(KEEPALIVE_INTERVAL_SECONDS),
    "tcp_keepalives_count": str(KEEPALIVE_COUNT),
}
# Those of them that the system has; macOS has another name for the first, and not the last.
_SOCKET_OPTIONS = {
    "TCP_KEEPIDLE": KEEPALIVE_IDLE_SECONDS,
    "TCP_KEEPALIVE": KEEPALIVE_IDLE_SECONDS,
    "TCP_KEEPINTVL": KEEPALIVE_INTERVAL_SECONDS,
    "TCP_KEEPCNT": KEEPALIVE_COUNT,
    "TCP_USER_TIMEOUT": UNACKNOWLEDGED_SECONDS * 1000,
}


class DriverConnection(asyncpg.Connection):
    """asyncpg's, whose socket is kept alive. asyncpg makes it with the transport as its second argument."""

    __slots__ = ()

    def __init__(self, protocol: Any, transport: asyncio.Transport, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        _keep_alive(transport.get_extra_info("socket"))

    def get_reset_query(self) -> str:
        """What asyncpg's `reset()` runs, after it has ended listeners."""
        return CLEAN_SESSION


def _keep_alive(end: socket.socket) -> None:
    if end.family == getattr(socket, "AF_UNIX", None):
        return
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _SOCKET_OPTIONS.items():
        option = getattr(socket, name, None)
        if option is not None:
            end.setsockopt(socket.IPPROTO_TCP, option, value)
