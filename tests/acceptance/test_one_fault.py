"""One connection can't be served, for a fault of ours: it is told, and nobody else notices."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.conftest import StartServer
from tests.harness import FRAME_TIMEOUT_SECONDS, Server, connect_sql, free_port, uvicorn_command

INTERNAL_ERROR = 1011
COMMITS = 20
SUBSCRIBE = {"type": "subscribe", "id": "s", "stream": "chatMessage", "group": "g"}
JOIN = {"type": "join", "data": {"streamName": "chatMessage", "groupId": "g", "subscriptionId": "s"}}
READY = {"tidelog": '"type":"live"', "motia": '"type":"sync"'}  # it is live from there


@asynccontextmanager
async def subscribed(server: Server, dialect: str, path: str = "/") -> AsyncIterator[ClientConnection]:
    protocols: Any = ["tidelog.v1"] if dialect == "tidelog" else None
    async with connect(
        server.ws_url + path, subprotocols=protocols, proxy=None, open_timeout=FRAME_TIMEOUT_SECONDS
    ) as socket:
        await socket.send(json.dumps(SUBSCRIBE if dialect == "tidelog" else JOIN))
        while READY[dialect] not in str(await socket.recv()):
            pass
        yield socket


@pytest.mark.parametrize("ws", ["tidelog.web.protocol:SocketProtocol", "websockets-sansio"], ids=["direct", "by send"])
async def test_one_that_cannot_be_served_costs_the_others_nothing(start_server: StartServer, ws: str) -> None:
    """In both dialects, on both ways to a socket: it is closed with 1011; the others get each commit once."""
    port = free_port()
    server = await start_server(port=port, command=uvicorn_command(port, ws=ws, app="tests.integration.failing:app"))
    async with AsyncExitStack() as stack:
        good, bad = {}, {}
        for dialect in READY:  # one before it, and one behind
            good[dialect, "before"] = await stack.enter_async_context(subscribed(server, dialect))
            bad[dialect] = await stack.enter_async_context(subscribed(server, dialect, "/fails"))
            good[dialect, "behind"] = await stack.enter_async_context(subscribed(server, dialect))
        sql = await connect_sql(server.database_url)
        for n in range(COMMITS):
            await sql.execute("insert into streams.chat_message (group_id, id, data) values ('g', $1, '{}')", f"i{n}")
        await sql.close()
        for (dialect, _), socket in good.items():
            frames = [json.loads(await socket.recv()) for _ in range(COMMITS)]
            if dialect == "tidelog":
                assert [frame["type"] for frame in frames] == ["commit"] * COMMITS
                assert [frame["position"] for frame in frames] == list(range(1, COMMITS + 1))
            else:
                assert [frame["id"] for frame in frames] == [f"i{n}" for n in range(COMMITS)]
        for socket in bad.values():
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == INTERNAL_ERROR
    async with server.http() as http:
        assert (await http.get("/health/ready")).status_code == 200
    assert server.log().count("ValueError: a fault of ours") == 1
