"""Fixtures of the client's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.client.scripted_server import Connection, ScriptedServer
from tidelog.client import Client


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer.start() as server:
        yield server


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[Client]:
    async with Client(server.url, proxy=None) as client:
        yield client


@pytest.fixture
async def connection(server: ScriptedServer, client: Client) -> Connection:
    """The client's first connection."""
    return await server.connection()
