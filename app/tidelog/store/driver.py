"""The driver's connection, as all of Tidelog's are opened: one whose network went silent is noticed at both ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Any, ClassVar

import asyncpg

from tidelog.store.queries import load

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
# Of our end of the socket, by libpq's names.
OUR_OPTIONS: Mapping[str, int] = {
    "keepalives": 1,
    "keepalives_idle": KEEPALIVE_IDLE_SECONDS,
    "keepalives_interval": KEEPALIVE_INTERVAL_SECONDS,
    "keepalives_count": KEEPALIVE_COUNT,
    "tcp_user_timeout": UNACKNOWLEDGED_SECONDS * 1000,
}
# Where the system has them; macOS has another name for the first, and not the last.
_TCP_NAMES = {
    "keepalives_idle": ("TCP_KEEPIDLE", "TCP_KEEPALIVE"),
    "keepalives_interval": ("TCP_KEEPINTVL",),
    "keepalives_count": ("TCP_KEEPCNT",),
    "tcp_user_timeout": ("TCP_USER_TIMEOUT",),
}


class DriverConnection(asyncpg.Connection):
    """asyncpg's, whose socket is kept alive. asyncpg makes it with the transport as its second argument."""

    __slots__ = ()
    socket_options: ClassVar[Mapping[str, int]] = OUR_OPTIONS

    def __init__(self, protocol: Any, transport: asyncio.Transport, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        _keep_alive(transport.get_extra_info("socket"), self.socket_options)

    def get_reset_query(self) -> str:
        """What asyncpg's `reset()` runs, after it has ended listeners."""
        return CLEAN_SESSION


def connection_class(options: Mapping[str, int]) -> type[DriverConnection]:
    """DriverConnection, or one of it with these options of its socket (libpq's names) in place of ours."""
    if not options:
        return DriverConnection
    return type(
        "DriverConnection", (DriverConnection,), {"__slots__": (), "socket_options": {**OUR_OPTIONS, **options}}
    )


def _keep_alive(end: socket.socket, options: Mapping[str, int]) -> None:
    if end.family == getattr(socket, "AF_UNIX", None):
        return
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(bool(options["keepalives"])))
    for name, tcp_names in _TCP_NAMES.items():
        for tcp_name in tcp_names:
            option = getattr(socket, tcp_name, None)
            # 0 is the system's own in libpq; the system itself takes it so for the last alone.
            if option is not None and (options[name] > 0 or name == "tcp_user_timeout"):
                end.setsockopt(socket.IPPROTO_TCP, option, options[name])
