"""The network that can be made to fail: it does what its faults are named for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.proxy import Proxy

TIMEOUT_SECONDS = 60


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy before a server that answers with what it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(100):
            writer.write(chunk)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with Proxy(("127.0.0.1", server.sockets[0].getsockname()[1])) as proxy:
        yield proxy
    server.close()
    await server.wait_closed()


async def connect(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def test_it_passes_on_in_both_directions_to_the_end(proxy: Proxy) -> None:
    """What is sent comes back whole, and an end is passed on as one."""
    reader, writer = await connect(proxy)
    writer.write(b"x" * 1_000_000)
    writer.write_eof()
    async with asyncio.timeout(TIMEOUT_SECONDS):
        assert await reader.read(-1) == b"x" * 1_000_000
    writer.close()


async def test_a_cut_resets_both_ends(proxy: Proxy) -> None:
    """The client learns of it at once; a new connection works."""
    reader, writer = await connect(proxy)
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    proxy.cut()
    async with asyncio.timeout(TIMEOUT_SECONDS):
        assert await reader.read(-1) == b""
    writer.close()
    reader, writer = await connect(proxy)
    writer.write(b"two")
    async with asyncio.timeout(TIMEOUT_SECONDS):
        assert await reader.readexactly(3) == b"two"
    writer.close()


async def test_a_blackhole_holds_everything_until_it_is_healed(proxy: Proxy) -> None:
    """Nothing comes, and nobody is told; afterwards all of it comes, on new connections, too."""
    reader, writer = await connect(proxy)
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    proxy.blackhole()
    writer.write(b"two")
    late_reader, late_writer = await connect(proxy)
    late_writer.write(b"three")
    pending = asyncio.create_task(reader.readexactly(3)), asyncio.create_task(late_reader.readexactly(5))
    done, _ = await asyncio.wait(pending, timeout=0.2)
    assert not done
    proxy.heal()
    async with asyncio.timeout(TIMEOUT_SECONDS):
        assert [await task for task in pending] == [b"two", b"three"]
    writer.close()
    late_writer.close()


async def test_what_is_silenced_stays_so_and_new_connections_work(proxy: Proxy) -> None:
    """Nobody is told, and nothing of it comes, also after `heal`."""
    reader, writer = await connect(proxy)
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    proxy.silence()
    writer.write(b"two")
    late_reader, late_writer = await connect(proxy)
    late_writer.write(b"three")
    async with asyncio.timeout(TIMEOUT_SECONDS):
        assert await late_reader.readexactly(5) == b"three"
    proxy.heal()
    pending = asyncio.create_task(reader.read(1))
    done, _ = await asyncio.wait([pending], timeout=0.2)
    assert not done
    proxy.cut()
    assert await pending == b""
    writer.close()
    late_writer.close()
