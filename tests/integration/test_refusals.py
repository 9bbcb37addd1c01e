"""What is refused at the door: the client learns why, and the access log has a line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import StartServer, server_starter
from tests.faults.wire import HEADERS, Wire, request
from tests.harness import Databases, Server, StepsFolder, eventually, free_port, uvicorn_command

STEP = """
config = {{"type": "api", "name": "{method}", "method": "{method}", "path": "/thing", "emits": []}}


async def handler(req, context):
    return {{"status": 200, "body": {{"size": len(req["rawBody"] or "")}}}}
"""
SILENT = {"access-control-request-method": "POST"}
EVIL = {"origin": "https://evil.example"}
GET = {"host": "localhost"}
UPGRADE = {"connection": "upgrade", "upgrade": "websocket"}
KEY = {name: HEADERS[name] for name in ("sec-websocket-key", "sec-websocket-version")}


@pytest.fixture(scope="module")
async def server(
    databases: Databases, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    steps = StepsFolder(tmp_path_factory.mktemp("steps"))
    for method in ("GET", "POST"):
        steps.write(f"{method}_step.py", STEP.format(method=method))
    url = await databases.create(template=template_database)
    async with server_starter(url) as start:
        server = await start(steps.path, TIDELOG_LOG_ACCESS="true")
        yield server
        assert "Traceback" not in server.log()
        assert not server.records("uvicorn.error")
    await databases.drop(url)


async def ask(server: Server, headers: dict[str, str], line: str = "GET /thing HTTP/1.1", body: bytes = b"") -> Any:
    """Status, headers and body of the answer to a request that is written as it is."""
    async with Wire.open(server) as wire:
        await wire.send(request(headers, line) + body)
        head = (await wire.reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        answered = dict(one.split(": ", 1) for one in head[1:] if one)
        text = await wire.reader.readexactly(int(answered.get("content-length", 0)))
        return int(head[0].split()[1]), answered, text.decode()


async def line_of(server: Server, trace: str) -> dict[str, Any]:
    """The one access line with this trace id."""

    def found() -> list[dict[str, Any]]:
        return [line for line in server.records("tidelog.access") if line["trace_id"] == trace]

    (line,) = await eventually(found)
    return line


@pytest.mark.parametrize(
    ("line", "headers", "message", "more"),
    [
        ("POST /thing HTTP/1.1", GET | EVIL, "request", {"method": "POST", "status": 403}),
        ("OPTIONS /thing HTTP/1.1", GET | EVIL | SILENT, "request", {"method": "OPTIONS", "status": 403}),
        ("GET /thing HTTP/1.1", {"host": "evil.example"}, "request", {"method": "GET", "status": 403}),
        ("GET /thing HTTP/1.1", HEADERS | EVIL, "socket refused", {"error": "origin_forbidden", "status": 403}),
        (
            "GET /thing HTTP/1.1",
            HEADERS | {"host": "evil.example"},
            "socket refused",
            {"error": "host_forbidden", "status": 403},
        ),
        ("GET /thing HTTP/1.1", GET | KEY, "request", {"method": "GET", "status": 426}),
    ],
    ids=["origin", "preflight", "host", "socket-origin", "socket-host", "upgrade"],
)
async def test_a_refused_request_has_an_access_line(
    server: Server, line: str, headers: dict[str, str], message: str, more: dict[str, Any], request: Any
) -> None:
    """As an answered one: who looks for the requests that failed finds it, with its trace id."""
    trace = request.node.callspec.id
    status, _, _ = await ask(server, headers | {"x-trace-id": trace}, line)
    assert status == more["status"]
    record = await line_of(server, trace)
    assert record["message"] == message and record["path"] == "/thing"
    assert {key: record[key] for key in more} == more


async def test_a_refused_socket_learns_why(server: Server) -> None:
    """By the same code as a request."""
    for headers, code in ((EVIL, "origin_forbidden"), ({"host": "evil.example"}, "host_forbidden")):
        status, _, body = await ask(server, HEADERS | headers)
        assert (status, code in body) == (403, True)


async def test_on_uvicorns_own_protocols_a_refused_socket_has_a_line_too(start_server: StartServer) -> None:
    """They have nothing of ours: the answer is theirs, the line is not."""
    port = free_port()
    command = uvicorn_command(port, http="auto", ws="websockets-sansio")
    server = await start_server(port=port, command=command, TIDELOG_LOG_ACCESS="true")
    status, _, _ = await ask(server, HEADERS | EVIL | {"x-trace-id": "theirs"})
    assert (status, (await line_of(server, "theirs"))["message"]) == (403, "socket refused")
    status, _, _ = await ask(server, GET | KEY | {"x-trace-id": "lost"})
    assert (status, (await line_of(server, "lost"))["status"]) == (426, 426)


@pytest.mark.parametrize(
    ("headers", "lost"),
    [
        (KEY, "Connection: Upgrade, Upgrade: websocket"),  # nginx without any of its settings for WebSockets
        (KEY | {"upgrade": "websocket"}, "Connection: Upgrade"),
        (KEY | {"upgrade": "websocket", "connection": "close"}, "Connection: Upgrade"),
        (KEY | {"connection": "upgrade"}, "Upgrade: websocket"),
        (UPGRADE, "Sec-WebSocket-Key, Sec-WebSocket-Version: 13"),
    ],
    ids=["all", "connection", "closed", "upgrade", "key"],
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("path", ["/", "/thing"])
async def test_a_handshake_that_lost_a_header_is_told_which(
    server: Server, path: str, version: str, headers: dict[str, str], lost: str
) -> None:
    """426, also where a step answers GET: it is no WebSocket. Unless it is told to, nginx asks by HTTP/1.0."""
    status, answered, body = await ask(server, GET | headers, f"GET {path} HTTP/{version}")
    assert (status, answered["upgrade"], answered["sec-websocket-version"]) == (426, "websocket", "13")
    assert "upgrade_required" in body
    assert f"without {lost}: " in body and "proxy_http_version 1.1" in body


async def test_a_socket_of_another_version_is_told_ours(server: Server) -> None:
    """RFC 6455 4.2.2 has a client begin anew with a version that it is offered."""
    status, answered, body = await ask(server, HEADERS | {"sec-websocket-version": "8"})
    assert (status, answered["sec-websocket-version"]) == (426, "13")
    assert "'8'" in body


@pytest.mark.parametrize(
    ("line", "headers"),
    [
        # curl --http2
        ("GET", {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQCAAAAAAIA"}),
        ("GET", {"connection": "Upgrade"}),  # nginx with `Connection "upgrade"` for everything
        ("POST", {"connection": "Upgrade"}),
        ("POST", {"upgrade": "websocket"}),
    ],
)
async def test_other_upgrades_are_left_aside(server: Server, line: str, headers: dict[str, str]) -> None:
    """The request is served as one without (RFC 9110 7.8), with its body, and the log is not filled."""
    body = b"[1, 2]" if line == "POST" else b""
    size = {"content-length": str(len(body)), "content-type": "application/json"} if body else {}
    status, _, answer = await ask(server, GET | headers | size, f"{line} /thing HTTP/1.1", body)
    assert (status, answer) == (200, f'{{"size":{len(body)}}}')


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
@pytest.mark.parametrize("framing", [{"content-length": "6"}, {"transfer-encoding": "chunked"}])
async def test_a_handler_never_runs_without_the_body_of_an_upgrade(
    server: Server, upgrade: str, framing: dict[str, str]
) -> None:
    """The parser takes what follows for the other protocol's. The client is told, and how to do without."""
    headers = GET | {"connection": "Upgrade", "upgrade": upgrade, "content-type": "application/json"} | framing
    body = b"[1, 2]" if "content-length" in framing else b"6\r\n[1, 2]\r\n0\r\n\r\n"
    status, answered, answer = await ask(server, headers, "POST /thing HTTP/1.1", body)
    assert (status, answered["connection"]) == (400, "close")
    assert "upgrade_with_body" in answer
