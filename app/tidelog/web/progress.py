"""How much a connection's client has taken: who takes what waits for it is alive, however much that is."""

from __future__ import annotations

import asyncio
import socket
import sys

# struct tcp_info (linux/tcp.h, since 4.1): tcpi_bytes_acked, which counts all that the other side has acknowledged.
TCP_INFO = getattr(socket, "TCP_INFO", None)
ACKED_BEGIN, ACKED_END = 120, 128


def taken(transport: asyncio.Transport) -> int:
    """A number that grows by the bytes that the client takes, and by nothing else but what is not written."""
    connection = transport.get_extra_info("socket")
    if TCP_INFO is not None and connection is not None:
        try:
            info = connection.getsockopt(socket.IPPROTO_TCP, TCP_INFO, ACKED_END)
        except OSError:  # no TCP, or it has ended
            info = b""
        if len(info) == ACKED_END:
            return int.from_bytes(info[ACKED_BEGIN:], sys.byteorder)
    # Elsewhere that the server's own buffer gets shorter is all that is to be seen.
    return -transport.get_write_buffer_size()
