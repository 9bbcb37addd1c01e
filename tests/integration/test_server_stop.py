"""A server that is asked to end does, whatever its clients do, tells all of them that can be told, and says no more."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest

from tests.acceptance.test_workers import workers
from tests.conftest import StartServer
from tests.faults.wire import CLOSE, Wire, frame, text
from tests.harness import Server, StepsFolder, eventually, free_port, uvicorn_command
from tests.integration.sequencer_fixtures import connected

SERVICE_RESTART = 1012  # RFC 6455's registry
SUBSCRIBE = {"type": "subscribe", "id": "s", "stream": "chatMessage", "group": "g"}
# As from a terminal, also where the tests are run in the background, or by nohup.
SERVE = [
    "-c",
    "import os, signal, sys; "
    "signal.signal(signal.SIGINT, signal.SIG_DFL); signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    "os.execv(sys.executable, [sys.executable, '-m', 'tidelog.cli', 'serve'])",
]
PIECE = 100_000
# More than the kernel takes for a client that doesn't read, less than makes a subscriber slow.
PIECES = 60


async def test_clients_that_read_nothing_hinder_no_stop(start_server: StartServer) -> None:
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


@pytest.mark.parametrize(
    ("number", "worker_count", "status"),
    [
        (signal.SIGINT, 1, 128 + signal.SIGINT),
        (signal.SIGTERM, 1, 128 + signal.SIGTERM),
        (signal.SIGHUP, 1, 128 + signal.SIGTERM),  # with several workers it replaces them
        (signal.SIGINT, 2, 0),
        (signal.SIGTERM, 2, 0),
    ],
)
async def test_a_server_that_is_stopped_says_nothing(
    start_server: StartServer, number: signal.Signals, worker_count: int, status: int
) -> None:
    """Ctrl-C reaches all of its processes, and so does a terminal that is closed; its client is told to come back."""
    server = await start_server(command=SERVE, TIDELOG_WORKERS=str(worker_count))
    await eventually(lambda: "Tidelog serves" in server.log())
    async with Wire.upgraded(server, "tidelog.v1") as client:
        await client.send(text(SUBSCRIBE))
        while json.loads((await client.receive())[1])["type"] != "live":
            pass
        before = server.log()
        signal_all(server, number)
        assert await client.closing_code() == SERVICE_RESTART
    await eventually(lambda: server.process.poll() is not None)
    said = server.log().removeprefix(before).splitlines()
    # Of two workers the one that stops later may have begun to number for the other.
    said = [line for line in said if "numbering commits" not in line or worker_count == 1]
    assert (server.process.returncode, said) == (status, [])


HANGING_STEP = """
import asyncio

config = {"type": "api", "name": "Hang", "method": "POST", "path": "/hang", "emits": []}


async def handler(req, context):
    context.logger.info("hanging")
    await asyncio.sleep(3600)
"""


async def test_a_second_ctrl_c_ends_it_at_once_and_shows_nobody_where_it_was(
    start_server: StartServer, steps: StepsFolder
) -> None:
    """While it waits for a step that takes an hour."""
    steps.write("hang_step.py", HANGING_STEP)
    server = await start_server(steps.path, command=SERVE)
    async with server.http() as http:
        asked = asyncio.create_task(http.post("/hang"))
        await eventually(lambda: "hanging" in server.log())
        signal_all(server, signal.SIGINT)
        await eventually(lambda: is_closed(server))
        assert server.process.poll() is None
        signal_all(server, signal.SIGINT)
        await eventually(lambda: server.process.poll() is not None)
        await asyncio.gather(asked, return_exceptions=True)  # it may have been told that it failed
    assert server.process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in server.log()
    assert '"level": "error"' not in server.log()


BROKEN_OFF_STEP = """
import asyncio

from sqlalchemy import text

config = {{"type": "api", "name": "Hang {name}", "method": "POST", "path": "/{name}", "transaction": {transaction},
          "emits": []}}


async def handler(req, context):
    await context.streams.chatMessage.set("g", "{name}", {{"text": "hi"}})
    context.logger.info("at work on {name}")
    if "{name}" == "commit":
        await context.db.execute(text("insert into slow values (1)"))
        return {{"status": 200}}
    await asyncio.sleep(3600)
"""
# What COMMIT itself waits for.
SLOW_COMMIT = """
create table slow (id int);
create function slowly() returns trigger language plpgsql as $$ begin perform pg_sleep(600); return null; end $$;
create constraint trigger slowly after insert on slow deferrable initially deferred
    for each row execute function slowly()
"""


async def test_steps_that_outlast_a_stop_are_told_what_became_of_them(
    start_server: StartServer, steps: StepsFolder
) -> None:
    """By a code: nothing was stored, or who knows. The log has a line of each, and where none of ours failed."""
    steps.write("chat_message_stream.py", 'config = {"name": "chatMessage", "schema": {"type": "object"}}\n')
    for name, transaction in (("nothing", True), ("stored", False), ("commit", True)):
        steps.write(f"{name}_step.py", BROKEN_OFF_STEP.format(name=name, transaction=transaction))
    port = free_port()
    command = [*uvicorn_command(port), "--timeout-graceful-shutdown", "1"]
    server = await start_server(steps.path, port=port, command=command)
    async with connected(server.database_url) as sql, server.http() as http:
        await sql.execute(SLOW_COMMIT)
        asked = [asyncio.create_task(http.post(f"/{name}")) for name in ("nothing", "stored", "commit")]
        await eventually(lambda: server.log().count("at work on") == 3)
        commits = (
            "select count(*) from pg_stat_activity "
            "where datname = current_database() and query = 'COMMIT' and state = 'active'"
        )
        await eventually(lambda: sql.fetchval(commits))
        server.process.send_signal(signal.SIGTERM)
        nothing, stored, commit = await asyncio.gather(*asked)
        await eventually(lambda: server.process.poll() is not None)
        codes = [answer.json()["error"]["code"] for answer in (nothing, stored, commit)]
        assert codes == ["server_stopping", "commit_unknown", "commit_unknown"]
        assert {answer.status_code for answer in (nothing, stored, commit)} == {503}
        assert "retry-after" in nothing.headers and "retry-after" not in {**stored.headers, **commit.headers}
        assert nothing.headers["x-trace-id"] in server.log()
        assert "Exception in ASGI application" not in server.log()
        assert "nothing" not in [row["id"] for row in await sql.fetch("select id from streams.chat_message")]


async def test_workers_end_when_who_started_them_is_killed(start_server: StartServer) -> None:
    """Nobody else would end them, and the next start would find its port in use."""
    server = await start_server(command=SERVE, TIDELOG_WORKERS="2")
    await eventually(lambda: "Tidelog serves" in server.log())
    begun = workers(psutil.Process(server.process.pid))
    assert len(begun) == 2
    server.process.send_signal(signal.SIGKILL)
    await eventually(lambda: not any(map(psutil.pid_exists, begun)))
    assert "Traceback" not in server.log() and "the server that started this worker is gone" in server.log()


async def is_closed(server: Server) -> bool:
    try:
        async with server.http() as http:
            await http.get("/health/live")
    except httpx.TransportError:
        return True
    return False


async def test_ctrl_c_while_workers_begin(database_url: str) -> None:
    """They are being loaded: none says where it was, and the server does not say that it serves."""
    server = Server(database_url, None, {"TIDELOG_WORKERS": "2"}, free_port(), SERVE)
    parent = psutil.Process(server.process.pid)
    try:
        await eventually(lambda: len(workers(parent)) == 2)
        signal_all(server, signal.SIGINT)
        await eventually(lambda: server.process.poll() is not None)
        assert server.process.returncode == 0
        assert {json.loads(line)["level"] for line in server.log().splitlines()} <= {"info"}
    finally:
        await server.stop()


async def test_ctrl_c_while_it_is_loaded(database_url: str, tmp_path: Path) -> None:
    """Before there is anything to be stopped."""
    (tmp_path / "uvicorn.py").write_text("import time; print('loading', flush=True); time.sleep(600)")
    server = Server(database_url, None, {"PYTHONPATH": str(tmp_path)}, free_port(), SERVE)
    try:
        await eventually(lambda: "loading" in server.log())
        signal_all(server, signal.SIGINT)
        await eventually(lambda: server.process.poll() is not None)
        assert (server.log(), server.process.returncode) == ("loading\n", -signal.SIGINT)
    finally:
        await server.stop()


def signal_all(server: Server, number: signal.Signals) -> None:
    """As a terminal does: the server, and the processes that it started."""
    parent = psutil.Process(server.process.pid)
    for process in (parent, *parent.children()):
        process.send_signal(number)
