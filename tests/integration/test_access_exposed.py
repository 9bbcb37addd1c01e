"""A server at an address that others reach, with tokens by settings alone, and without anything said."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.exceptions import InvalidStatus

from tests.harness import HTTP_TIMEOUT_SECONDS, Subscriber, eventually, free_port, server_environment, uvicorn_command
from tests.integration.test_access import DENIED, answer
from tests.tokens import EC_KEY, OTHER_RSA_KEY, RSA_KEY, SECRET, jwk, key_set, pem, token
from tidelog.access.key_set import _fetch

STREAM = """
def can_access(subscription, auth):
    return auth is not None and subscription["groupId"] == auth["subject"]


config = {"name": "job", "schema": {"type": "object"}, "canAccess": can_access}
"""


def other_address() -> str:
    """One of this machine's that isn't loopback."""
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family == socket.AF_INET and not one.address.startswith("127."):
                return one.address
    pytest.skip("this machine has no address but loopback ones")


async def test_tidelog_serve_refuses_to_be_reached_by_others_unasked(database_url: str) -> None:
    """In one line, with what to do, and before anything is migrated or served."""
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tidelog.cli", "serve",
        env=server_environment(database_url, None, TIDELOG_HOST="0.0.0.0", TIDELOG_PORT="0"),  # noqa: S104
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await program.communicate()
    assert program.returncode == 1
    (line,) = output.decode().strip().split("\n")
    assert line.startswith("tidelog: access_undecided: ") and "TIDELOG_ACCESS=open" in line


async def test_what_others_reach_by_another_command_is_refused(start_server: Any) -> None:
    """uvicorn's own option says nothing to us; its address does. Health is answered, and the machine itself."""
    address, port = other_address(), free_port()
    server = await start_server(port=port, command=[*uvicorn_command(port), "--host", "0.0.0.0"])  # noqa: S104
    async with httpx.AsyncClient(base_url=f"http://{address}:{port}", timeout=HTTP_TIMEOUT_SECONDS) as http:
        for path in ("/", "/chat/g/messages", "/schema/openapi.json", "/nothing"):
            refused = await http.get(path, headers={"host": "localhost"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "access_undecided")
        assert (await http.get("/health/live", headers={"host": "localhost"})).status_code == 200
    elsewhere = type("Elsewhere", (), {"ws_url": f"ws://{address}:{port}"})()
    with pytest.raises(InvalidStatus):
        async with Subscriber.connect(elsewhere):
            pass
    async with Subscriber.connect(server) as subscriber:
        assert await answer(subscriber, "chatMessage", "g") == []


async def test_tokens_by_settings_alone_open_a_server_to_those_who_have_one(start_server: Any, steps: Any) -> None:
    """A secret in a variable is all of it; also for the address that others reach."""
    steps.write("job_stream.py", STREAM)
    steps.write("free_stream.py", 'config = {"name": "free", "schema": {}}')
    address, port = other_address(), free_port()
    command = [*uvicorn_command(port), "--host", "0.0.0.0"]  # noqa: S104
    await start_server(steps.path, port=port, command=command, TIDELOG_JWT_SECRET=SECRET)
    server: Any = type("Elsewhere", (), {"ws_url": f"ws://{address}:{port}"})()
    async with Subscriber.connect(server, token(), "/") as ada:
        assert await answer(ada, "job", "ada") == []
        assert await answer(ada, "job", "eve") == DENIED
        assert await answer(ada, "free", "g") == []
    async with Subscriber.connect(server) as nobody:
        assert await answer(nobody, "job", "ada") == DENIED
        assert await answer(nobody, "free", "g") == DENIED
    for given in (token("another secret, also of 32 bytes or more"), token(exp=1), "x"):
        with pytest.raises(InvalidStatus, match="401"):
            async with Subscriber.connect(server, given):
                pass


@pytest.mark.parametrize("way", ["pem", "set"])
async def test_keys_come_from_a_file(start_server: Any, steps: Any, tmp_path: Path, way: str) -> None:
    """Which may be replaced, if it is a set, while the server runs."""
    steps.write("job_stream.py", STREAM)
    file = tmp_path / "keys"
    file.write_text(pem(RSA_KEY) if way == "pem" else key_set(jwk(RSA_KEY, "k1")))
    name = "TIDELOG_JWT_KEY_FILE" if way == "pem" else "TIDELOG_JWT_JWKS"
    server = await start_server(steps.path, **{name: str(file)})
    async with Subscriber.connect(server, token(RSA_KEY, "RS256", {"kid": "k1"})) as ada:
        assert await answer(ada, "job", "ada") == []
    with pytest.raises(InvalidStatus, match="401"):
        async with Subscriber.connect(server, token(OTHER_RSA_KEY, "RS256", {"kid": "k1"})):
            pass
    if way == "set":
        file.write_text(key_set(jwk(RSA_KEY, "k1"), jwk(EC_KEY, "k2")))

        async def is_taken() -> bool:
            with suppress(InvalidStatus):  # between two looks at the file there is a second
                async with Subscriber.connect(server, token(EC_KEY, "ES256", {"kid": "k2"})):
                    return True
            return False

        await eventually(is_taken)


@pytest.mark.parametrize(
    "settings",
    [
        {"TIDELOG_JWT_SECRET": "sesame-sesame"},
        {"TIDELOG_JWT_JWKS": "http://id.example/keys"},
        {"TIDELOG_JWT_JWKS": "/nowhere/keys.json"},
        {"TIDELOG_JWT_SECRET": SECRET, "TIDELOG_JWT_KEY_FILE": "key.pem"},
    ],
)
async def test_wrong_settings_of_tokens_end_the_start(start_server: Any, settings: dict[str, str]) -> None:
    """In a line that says no secret; a server that takes every token, or none, is not what was wanted."""
    with pytest.raises(RuntimeError, match="tidelog: jwt_settings_invalid: ") as ended:
        await start_server(**settings)
    assert "sesame-sesame" not in str(ended.value) and SECRET not in str(ended.value)


# An issuer's address.


@asynccontextmanager
async def issuer(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Answers so, one request after the other, and then as the last; tells what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answers[min(len(asked), len(answers)) - 1])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys", asked


def ok(body: str, head: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {head}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()


async def test_keys_come_from_an_issuer(start_server: Any, steps: Any) -> None:
    """Asked once for many tokens; while it is away, nobody can be known, and nobody is let in."""
    steps.write("job_stream.py", STREAM)
    async with issuer(ok("", "503 Away"), ok(key_set(jwk(RSA_KEY, "k1")))) as (url, asked):
        server = await start_server(steps.path, TIDELOG_JWT_JWKS=url)
        good = token(RSA_KEY, "RS256", {"kid": "k1"})
        with pytest.raises(InvalidStatus, match="503"):
            async with Subscriber.connect(server, good):
                pass
    async with issuer(ok(key_set(jwk(RSA_KEY, "k1")))) as (url, asked):
        server = await start_server(steps.path, TIDELOG_JWT_JWKS=url)
        for _ in range(3):
            async with Subscriber.connect(server, good) as ada:
                assert await answer(ada, "job", "ada") == []
        assert len(asked) == 1
        with pytest.raises(InvalidStatus, match="401"):
            async with Subscriber.connect(server, token(OTHER_RSA_KEY, "RS256", {"kid": "k1"})):
                pass


async def test_an_issuer_does_not_send_us_elsewhere() -> None:
    """The address that was set is the one that is believed: not a redirect's, which may be of anything."""
    async with (
        issuer(ok(key_set(jwk(OTHER_RSA_KEY, "k1")))) as (elsewhere, asked),
        issuer(ok("", f"302 Found\r\nlocation: {elsewhere}")) as (url, _),
    ):
        with pytest.raises(OSError, match="302"):
            await asyncio.to_thread(_fetch, url)
        assert asked == []


async def test_an_issuers_answer_has_a_bound() -> None:
    """It is read into memory."""
    async with issuer(ok(json.dumps({"keys": ["x" * 2_000_000]}))) as (url, _):
        with pytest.raises(ValueError, match="larger"):
            await asyncio.to_thread(_fetch, url)
