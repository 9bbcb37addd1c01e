"""A server that is asked to end does, whatever its clients do, and tells all of them that can be told."""

from __future__ import annotations

import json
import signal
from typing import Any

import asyncpg

from tests.faults.wire import CLOSE, Wire, frame, text
from tests.harness import eventually, free_port, uvicorn_command

SERVICE_RESTART = 1012  # RFC 6455's registry
SUBSCRIBE = {"type": "subscribe", "id": "s", "stream": "chatMessage", "group": "g"}
PIECE = 100_000
# More than the kernel takes for a client that doesn't read, less than makes a subscriber slow.
PIECES = 60


async def test_clients_that_read_nothing_hinder_no_stop(start_server: Any) -> None:
    """One that reads nothing, one that also began to close, and one that does all right: it is told to come back."""
    port = free_port()
    # Who is held up by a client is so for long (the last of two such options counts), and nobody for being slow.
    command = [*uvicorn_command(port), "--timeout-graceful-shutdown", "600"]
    server = await start_server(
        port=port, command=command, is_patient=True, TIDELOG_SOCKET_BUFFER_BYTES_MAX=str(2 * PIECE * PIECES)
    )
    async with (
        Wire.upgraded(server, "tidelog.v1") as closing,
        Wire.upgraded(server, "tidelog.v1") as silent,
        Wire.upgraded(server, "tidelog.v1") as good,
    ):
        for wire in (closing, silent, good):
            await wire.send(text(SUBSCRIBE))
            while json.loads((await wire.receive())[1])["type"] != "snapshot":
                pass
        for wire in (closing, silent):
            wire.reader._transport.pause_reading()  # type: ignore[attr-defined]
        connection = await asyncpg.connect(server.database_url)
        for number in range(PIECES):
            await connection.execute(
                "insert into streams.chat_message (group_id, id, data) "
                "values ('g', $1, jsonb_build_object('text', repeat('x', $2)))",
                str(number),
                PIECE,
            )
        await connection.close()
        while json.loads((await good.receive())[1]).get("position", 0) < PIECES:
            pass
        await closing.send(frame(CLOSE, (1000).to_bytes(2, "big")))
        await good.send(text(SUBSCRIBE))  # refused; by that answer the close frame has been read, too
        while json.loads((await good.receive())[1])["type"] != "error":
            pass
        server.process.send_signal(signal.SIGTERM)
        assert await good.closing_code() == SERVICE_RESTART
        await eventually(lambda: server.process.poll() is not None)
    assert server.process.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in server.log()
    assert "Cancel" not in server.log()
