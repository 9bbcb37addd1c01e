"""The log of a real server: what it tells an operator, and what it never has in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url
from websockets.asyncio.client import connect

from tests.acceptance.test_tidelog_v1 import STREAM
from tests.conftest import StartServer, server_starter
from tests.harness import Databases, Server, StepsFolder, Subscriber, eventually, free_port, uvicorn_command

STEP = """
import logging

config = {{"type": "api", "name": "{name}", "method": "POST", "path": "{path}", "emits": [], "flows": ["notes"]}}
logger = logging.getLogger(__name__)


async def handler(req, context):
{body}
    return {{"status": 201, "body": {{"ok": True}}}}
"""
NOTE = """
    context.logger.info("noted", {"group": req["pathParams"]["group"], "headers": req["headers"]})
    logger.info("of the file")
"""
FAIL = """
    import os
    raise RuntimeError(os.environ["TIDELOG_DATABASE_URL"] + "\\nforged ?token=" + req["queryParams"]["token"])
"""
PASSWORD = "s3cret-of-the-database"
SERVICE_RESTART = 1012  # RFC 6455's registry
SERVE = ["-m", "tidelog.cli", "serve"]


def write_steps(steps: StepsFolder) -> None:
    steps.write("alpha_stream.py", STREAM.format(name="alpha"))
    steps.write("note_step.py", STEP.format(name="Note", path="/notes/:group", body=NOTE))
    steps.write("fail_step.py", STEP.format(name="Fail", path="/fail", body=FAIL))


def with_password(server_url: str) -> str:
    """The same database, as one that asks for a password would have it: trust ignores it."""
    return make_url(server_url).set(password=PASSWORD).render_as_string(hide_password=False)


@pytest.fixture(scope="module")
async def server(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """What `scripts/serve` runs, with a log that isn't a terminal."""
    folder: Path = tmp_path_factory.mktemp("steps")
    write_steps(StepsFolder(folder))
    url = await databases.create()
    async with server_starter(with_password(url)) as start:
        yield await start(steps_dir=folder, command=SERVE, TIDELOG_LOG_ACCESS="true")
    await databases.drop(url)


async def accessed(server: Server, trace: str, count: int) -> list[dict[str, Any]]:
    """The access lines of some requests, when all are there: they are written behind the answer."""

    def found() -> list[dict[str, Any]]:
        return [line for line in server.records("tidelog.access") if line["trace_id"].startswith(trace)]

    await eventually(lambda: len(found()) >= count)
    return found()


async def test_a_request_is_told_with_what_its_step_logged(server: Server) -> None:
    """One access line for each request but health checks; a trace id holds all of a request's lines together."""
    async with server.http() as http:
        await http.post("/notes/a%2Fb?token=1", headers={"x-trace-id": "told-1"}, json={})
        await http.get("/nothing", headers={"x-trace-id": "told-2"})
        await http.get("/notes/a", headers={"x-trace-id": "told-3"})
        await http.get("/health/live", headers={"x-trace-id": "told-health"})
        await http.post("/notes/last", headers={"x-trace-id": "told-4"})
    first, second, third, fourth = await accessed(server, "told-", 4)
    assert first.items() >= {
        "level": "info", "step": "Note", "method": "POST", "path": "/notes/a%2Fb", "status": 201,
        "bytes": len('{"ok":true}'),
    }.items()  # fmt: skip
    assert first["duration_ms"] > 0
    assert (second["path"], second["status"], second["step"]) == ("/nothing", 404, None)
    assert (third["status"], third["step"]) == (405, None)
    assert fourth["path"] == "/notes/last"
    of_the_first = [record for record in server.records() if record.get("trace_id") == "told-1"]
    noted, of_the_file, _ = of_the_first
    assert noted.items() >= {
        "message": "noted", "level": "info", "logger": "tidelog.steps", "step": "Note", "flows": ["notes"]
    }.items()  # fmt: skip
    assert noted["data"]["group"] == "a/b"
    assert of_the_file["message"] == "of the file" and of_the_file["step"] == "Note"


async def test_a_websocket_is_told_when_it_opens_and_closes(server: Server) -> None:
    """With its dialect, its subscriptions at the end, and the code: the client's, or that the connection broke."""
    for headers, ending in (({"x-trace-id": "socket-1"}, "close"), ({"x-trace-id": "socket-2"}, "abort")):
        protocols: Any = ["tidelog.v1"]
        socket = await connect(
            server.ws_url + "/?token=1", additional_headers=headers, subprotocols=protocols, proxy=None
        )
        await socket.send('{"type":"subscribe","id":"s1","stream":"alpha","group":"g"}')
        await socket.recv()
        if ending == "close":
            await socket.close()
        else:
            socket.transport.abort()
            await socket.wait_closed()
    lines = await accessed(server, "socket-", 4)
    assert {line["path"] for line in lines} == {"/"} and {line["dialect"] for line in lines} == {"tidelog.v1"}
    ends = {line["trace_id"]: line for line in lines if line["message"] == "socket closed"}
    assert [(ends[trace]["code"], ends[trace]["subscriptions"]) for trace in ("socket-1", "socket-2")] == [
        (1000, 1),
        (1006, 1),
    ]


async def send_secrets(server: Server) -> None:
    """By all ways; and wait until the log has what the last of them brings about."""
    headers = {"authorization": "Bearer s3cret-token", "cookie": "session=s3cret-session", "x-api-key": "s3cret-key"}
    async with server.http() as http:
        await http.post("/notes/a?token=s3cret-query", headers=headers)
        await http.post("/notes/access_token=s3cret-path")
        assert (await http.post("/fail?token=s3cret-query", headers=headers)).status_code == 500
        async with Subscriber.connect(server, "s3cret-protocol", "/?authToken=s3cret-socket"):
            await http.post("/notes/the-last-one")
    await eventually(lambda: "the-last-one" in server.log() and "RuntimeError" in server.log())


async def test_no_secret_is_in_the_log(server: Server) -> None:
    """Not of the database's URL, of query strings, of headers; wherever they come by: errors, access, authors' data."""
    await send_secrets(server)
    assert "s3cret" not in server.log()


async def test_nobody_forges_a_line_by_a_request(server: Server) -> None:
    """Line breaks and escapes in a path, a trace id, a header or an error's message stay within one record."""
    forged = b'%0d%0a{"message":"forged","logger":"x"}%0a%1b[2J'
    began = len(server.log())
    for head in (
        b"GET /nothing" + forged + b" HTTP/1.1\r\n",
        b"POST /notes/" + forged + b' HTTP/1.1\r\nx-trace-id: {"logger":"x"}\xff\r\nx-b: \xe2\x80\xa8\r\n',
        b"POST /fail?token=%0a%1b[2J{} HTTP/1.1\r\ntraceparent: 00-\xc2\x85\r\n",
        b"GET /nothing HTTP/1.1\r\nx-trace-id: forged-the-last\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(head + b"host: localhost\r\ncontent-length: 0\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.close()
            await writer.wait_closed()
    await accessed(server, "forged-", 1)
    lines = server.log()[began:].split("\n")[:-1]
    assert any("forged" in line for line in lines) and any("Traceback" in line for line in lines)
    for line in lines:
        assert line.isprintable() and json.loads(line)["logger"] != "x"


async def test_access_lines_and_format_are_settings(
    start_server: StartServer, steps: StepsFolder, database_url: str
) -> None:
    """Without access lines (it is no terminal) the rest is as it was; as text it has no more secrets than as JSON."""
    write_steps(steps)
    url = with_password(database_url)
    server = await start_server(
        steps_dir=steps.path, command=SERVE, TIDELOG_DATABASE_URL=url, TIDELOG_LOG_FORMAT="Text"
    )
    await send_secrets(server)
    assert "s3cret" not in server.log()
    assert "noted " in server.log() and "    Traceback (most recent" in server.log()
    assert "tidelog.access" not in server.log() and "{" not in [line[:1] for line in server.log().splitlines()]


async def test_each_of_several_processes_logs_whole_lines(start_server: StartServer, steps: StepsFolder) -> None:
    """TIDELOG_WORKERS: the lines of all go to one place, don't mix, and tell whose they are."""
    write_steps(steps)
    settings = {"TIDELOG_WORKERS": "2", "TIDELOG_LOG_ACCESS": "true"}
    server = await start_server(steps_dir=steps.path, command=SERVE, **settings)
    async with server.http() as http:

        async def post(number: int) -> None:
            headers = {"x-filler": "y" * 3000, "connection": "close", "x-trace-id": f"post-{number}"}
            await http.post(f"/notes/{number}", headers=headers)

        for first in range(0, 40, 20):
            await asyncio.gather(*map(post, range(first, first + 20)))
    lines = await accessed(server, "post-", 40)
    assert {line["path"] for line in lines} == {f"/notes/{number}" for number in range(40)}
    assert len(server.records("tidelog.steps")) == 40
    assert server.process.pid not in {line["pid"] for line in lines}


async def test_on_another_server_its_own_log_stays(start_server: StartServer, steps: StepsFolder) -> None:
    """uvicorn as it is, at its own level: its lines are in its form, once, and ours in ours."""
    write_steps(steps)
    port = free_port()
    command = [argument for argument in uvicorn_command(port) if argument not in ("--log-level", "warning")]
    server = await start_server(steps_dir=steps.path, port=port, command=command, TIDELOG_LOG_ACCESS="true")
    async with Subscriber.connect(server) as subscriber:
        await subscriber.join("alpha", "g")
        await subscriber.next()
        await server.stop()
    assert server.log().count("Application startup complete") == 1
    assert server.log().count("INFO:     Application startup complete") == 1
    closed = server.records("tidelog.access")[-1]
    assert (closed["dialect"], closed["code"], closed["subscriptions"]) == ("motia", SERVICE_RESTART, 1)
