"""Of a connection that has ended nothing is kept, not even until Python looks for garbage."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from tests.feed_insides import tasks_of
from tests.harness import ROOT, eventually
from tests.integration.sequencer_fixtures import connected, sequencing
from tests.integration.test_outlet import SUBSCRIBES, client_frame, raw_connection
from tests.integration.test_rejoin import Feed
from tidelog.runtime.discovery import discover
from tidelog.settings import Settings
from tidelog.web.gate import SocketGate
from tidelog.web.motia_connection import MotiaConnection
from tidelog.web.tidelog_connection import TidelogConnection

INSERT = "insert into streams.chat_message (group_id, id, data) "
LARGE = (
    f"{INSERT} select 'large', i::text, jsonb_build_object('text', repeat(md5(i::text), 800)) "
    "from generate_series(1, 80) i"
)
PROTOCOLS = {"direct": "tidelog.web.protocol:SocketProtocol", "plain": "websockets-sansio"}


class Address:
    """What raw_connection wants of a server."""

    def __init__(self, port: int) -> None:
        self.port = port


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@asynccontextmanager
async def serving(feed: Feed, settings: Settings, ws: str) -> AsyncIterator[Address]:
    """The gate of the sockets, in this process."""
    gate = SocketGate(feed.broadcaster, discover(ROOT / "app/steps").streams, settings)

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        await gate.serve(scope, receive, send)

    config = uvicorn.Config(
        serve, port=0, lifespan="off", ws=ws, log_level="warning", ws_per_message_deflate=False,
        timeout_graceful_shutdown=1, interface="asgi3",
    )  # fmt: skip
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    running = asyncio.create_task(server._serve())
    try:
        await eventually(lambda: server.started)
        yield Address(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        await running


def message(dialect: str, number: int, group: str) -> bytes:
    said: dict[str, Any] = json.loads(json.dumps(SUBSCRIBES[dialect]))
    if dialect == "motia":
        said["data"] |= {"groupId": group, "subscriptionId": f"s{number}"}
    else:
        said |= {"group": group, "id": f"s{number}"}
    return client_frame(1, json.dumps(said).encode())


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("dialect", SUBSCRIBES)
@pytest.mark.parametrize(
    ("end", "protocol"),
    [("closed", "direct"), ("broken off", "direct"), ("given up", "direct"), ("broken off", "plain")],
)
async def test_a_connection_that_has_ended_is_forgotten_at_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch, end: str, dialect: str, protocol: str
) -> None:
    """One that is live, and has large snapshots on their way that it doesn't take; however it ends."""
    connections: list[weakref.ref[Any]] = []
    for kind in (MotiaConnection, TidelogConnection):
        init = kind.__init__

        def noting(self: Any, *arguments: Any, init: Any = init) -> None:
            init(self, *arguments)
            connections.append(weakref.ref(self))
            connections.extend(weakref.ref(one) for one in (self.outlet,) if hasattr(one, "__weakref__"))

        monkeypatch.setattr(kind, "__init__", noting)
    async with connected(database_url) as sql:
        with sequencing(database_url):
            await sql.execute(LARGE)
            timeout = 0.5 if end == "given up" else 3600
            settings = Settings(socket_drain_timeout_seconds=timeout)
            async with (
                Feed.on(database_url, socket_drain_timeout_seconds=timeout) as feed,
                serving(feed, settings, PROTOCOLS[protocol]) as address,
                raw_connection(address, dialect) as (reader, writer),  # type: ignore[arg-type]
            ):
                writer.write(message(dialect, 0, "small"))
                await reader.readuntil(b'"live"' if dialect == "tidelog" else b'"sync"')
                reader._transport.pause_reading()
                for number in range(1, 30):
                    writer.write(message(dialect, number, "large"))
                await eventually(lambda: any(one.is_full for one in feed.broadcaster.registry.subscribers))
                if end == "closed":
                    writer.write(client_frame(8, (1000).to_bytes(2, "big")))
                if end != "given up":
                    writer.transport.abort()
                await eventually(lambda: not feed.broadcaster.registry.subscribers)
                await eventually(lambda: not tasks_of(feed.broadcaster))
                if end == "given up":
                    writer.transport.abort()
                await eventually(lambda: not any(one() for one in connections))
                assert (feed.broadcaster.budget.memory.taken, feed.broadcaster.budget.disk.taken) == (0, 0)
