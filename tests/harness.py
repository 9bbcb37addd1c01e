"""What the tests stand on: databases of their own, real server processes, and a subscriber."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import httpx
import psutil
from websockets.asyncio.client import ClientConnection, connect

from tests import forks
from tidelog.postgres.os_user import BIN
from tidelog.testing import databases, settling
from tidelog.testing.databases import RUN as RUN
from tidelog.testing.databases import database_url_of as database_url_of
from tidelog.testing.postgres import libpq_url as libpq_url

ROOT = forks.ROOT
# What hangs is found out by these; what is only slow, on a machine that stands still for seconds, must not be.
READY_TIMEOUT_SECONDS = 90
STOP_TIMEOUT_SECONDS = 15
FRAME_TIMEOUT_SECONDS = 60
HTTP_TIMEOUT_SECONDS = 60
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # httpx reads all certificates of the machine else, for each client
PROGRAM_TIMEOUT_SECONDS = forks.PROGRAM_TIMEOUT_SECONDS
NUMBERED_TIMEOUT_SECONDS = 90
POLL_SECONDS = 0.02

PSQL = shutil.which("psql") or str(BIN / "psql")  # the machine's, or the wheel's
MARK = "mark-"  # the type of events that only say how far the feed is
GATES = 7  # the first half of the advisory locks that are gates

_serial = itertools.count(1)
_reserved: list[socket.socket] = []

Frame = dict[str, Any]
Sql: TypeAlias = "asyncpg.Connection[Any]"


class Databases(databases.Databases):
    """Databases whose deadlocks are found at once. By default Postgres waits a second before it looks."""

    def __init__(self, server_url: str) -> None:
        super().__init__(server_url, deadlock_timeout="5ms")  # random writers of several items meet in deadlocks


def migrate(database_url: str, steps_dir: Path | None = None, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `alembic upgrade head`, or alembic with `arguments`; raises with its output if it fails."""
    environment = server_environment(database_url, steps_dir)
    done = forks.run("alembic", arguments or ("upgrade", "head"), environment)
    if done.returncode:
        raise RuntimeError(f"alembic failed:\n{done.stdout}\n{done.stderr}")
    return done


def server_environment(database_url: str, steps_dir: Path | None, **settings: str) -> dict[str, str]:
    """The environment of a process under test: this one's, with the settings given and no others of ours."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDELOG_")}
    environment |= {"TIDELOG_DATABASE_URL": database_url, **settings}
    if steps_dir is not None:
        environment["TIDELOG_STEPS_DIR"] = str(steps_dir)
    return environment


def free_port() -> int:
    """A port of this run's own: nobody is given it by chance, also while the server on it is down.

    It stays bound. Sockets with SO_REUSEADDR may share an address as long as only one of them listens (socket(7)),
    and all servers set it.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    _reserved.append(reserved)
    port: int = reserved.getsockname()[1]
    return port


def processes_below(folder: Path) -> list[psutil.Process]:
    """The processes that work in `folder` or below: an embedded Postgres does in its data."""
    return [
        process
        for process in psutil.process_iter(["cwd", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and process.info["cwd"]
        and Path(process.info["cwd"]).is_relative_to(folder)
    ]


def are_gone(folder: Path) -> bool:
    """Whether no process works in `folder` or below. The last one may still be about to end: it gets the time."""
    deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
    while left := bool(processes_below(folder)):
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    return not left


def uvicorn_command(
    port: int,
    http: str = "tidelog.web.http_protocol:RequestProtocol",
    ws: str = "tidelog.web.protocol:SocketProtocol",
    app: str = "app.main:app",
) -> list[str]:
    """One server process, run as the README says."""
    return [
        "-m", "uvicorn", app, "--port", str(port), "--log-level", "warning", "--http", http, "--ws", ws,
        "--ws-per-message-deflate", "false", "--timeout-graceful-shutdown", "5", "--no-proxy-headers",
    ]  # fmt: skip


class Server:
    """A real server on a free port, by Python with the arguments `command`.

    Its process is forked from one that has imported what a server needs. It has an interpreter of its own where it
    `is_fresh`, where it begins worker processes, and where the command is no module.
    """

    def __init__(
        self,
        database_url: str,
        steps_dir: Path | None,
        settings: dict[str, str],
        port: int,
        command: Sequence[str] | None = None,
        *,
        is_fresh: bool = False,
    ) -> None:
        command = command or uvicorn_command(port)
        self.database_url = database_url
        self.steps_dir = steps_dir
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.ws_url = f"ws://127.0.0.1:{port}"
        with tempfile.NamedTemporaryFile(prefix="tidelog-server-", suffix=".log", delete=False) as log:
            self._log = Path(log.name)
            # Not when it is stopped: a test may want to read it then.
            weakref.finalize(self, self._log.unlink, missing_ok=True)
            environment = server_environment(database_url, steps_dir, TIDELOG_PORT=str(port), **settings)
            self.process: forks.ForkedProgram | subprocess.Popen[bytes]
            if command[0] == "-m" and "TIDELOG_WORKERS" not in environment and not is_fresh:
                self.process = forks.ForkedProgram(command[1], command[2:], environment, self._log)
            else:
                self.process = subprocess.Popen(
                    [sys.executable, *command],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                )

    async def wait_until_ready(self) -> None:
        async with httpx.AsyncClient(base_url=self.url, verify=NO_TLS) as http:
            async with asyncio.timeout(READY_TIMEOUT_SECONDS):
                while True:
                    if self.process.poll() is not None:
                        raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.log()}")
                    try:
                        if (await http.get("/health/ready")).status_code == 200:
                            return
                    except httpx.TransportError:
                        pass
                    await asyncio.sleep(0.05)

    def http(self) -> httpx.AsyncClient:
        """A client of its, more patient than httpx is by itself."""
        return httpx.AsyncClient(base_url=self.url, timeout=HTTP_TIMEOUT_SECONDS, verify=NO_TLS)

    def log(self) -> str:
        """All that the server wrote to its output."""
        return self._log.read_text()

    def records(self, logger: str = "") -> list[dict[str, Any]]:
        """The log's records, of one logger if it is named; a line that is still being written is left out."""
        lines = [line for line in self.log().split("\n")[:-1] if line.startswith("{")]
        return [record for record in map(json.loads, lines) if logger in ("", record["logger"])]

    async def stop(self) -> None:
        """Ask it to end (SIGTERM), and wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(self.process.wait, STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                await self.kill()

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await asyncio.to_thread(self.process.wait)

    async def discard(self) -> None:
        """Stop it if it runs, and throw its log away."""
        await self.stop()


async def connect_sql(database_url: str) -> asyncpg.Connection[Any]:
    """Another writer: a connection whose jsonb values are Python's."""
    connection = await asyncpg.connect(database_url)
    # Binary, as COPY wants it: the text behind a version byte (jsonb_recv).
    await connection.set_type_codec(
        "jsonb",
        encoder=lambda value: b"\x01" + json.dumps(value).encode(),
        decoder=lambda data: json.loads(data[1:]),
        schema="pg_catalog",
        format="binary",
    )
    return connection


async def lift_limits(sql: asyncpg.Connection[Any]) -> None:
    """From now on items and events of this database may be as large, deep and long as before there were limits."""
    await sql.execute(
        "create or replace function streams.check_json(data jsonb, written text, subject text, name text) "
        "returns boolean language sql as 'select true'"
    )


async def eventually(check: Callable[[], Any], timeout_seconds: float = 90) -> Any:
    """What `check` answers once that is true; for what nobody signals. It may be a coroutine function."""
    async with asyncio.timeout(timeout_seconds):
        while True:
            answer = check()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(POLL_SECONDS)


async def until_numbered(sql: asyncpg.Connection[Any]) -> None:
    """Every commit before now has its number: whoever comes back after this is told of all of them before `live`."""
    async with asyncio.timeout(NUMBERED_TIMEOUT_SECONDS):
        await settling.until_numbered(sql)


class Gate:
    """Where transactions wait until the test lets them through. `pass_sql` is the statement that waits."""

    def __init__(self, connection: asyncpg.Connection[Any], number: int) -> None:
        self._connection = connection
        self._number = number
        self.pass_sql = f"select pg_advisory_xact_lock_shared({GATES}, {number})"

    @classmethod
    @asynccontextmanager
    async def closed(cls, database_url: str) -> AsyncIterator[Gate]:
        """A closed gate; it opens at the end, if not before."""
        connection = await asyncpg.connect(database_url)
        gate = cls(connection, next(_serial))
        await connection.execute("select pg_advisory_lock($1, $2)", GATES, gate._number)
        try:
            yield gate
        finally:
            await connection.close()

    async def reached(self) -> str:
        """Wait until somebody waits at the gate; returns the name of the transaction."""
        return str(await eventually(self._waiting))

    async def left(self, transaction: str) -> None:
        """Wait until that one doesn't wait any more, though the gate is closed; the next may wait."""

        async def is_another() -> bool:
            return await self._waiting() != transaction

        await eventually(is_another)

    async def _waiting(self) -> str | None:
        waiting = (
            "select virtualtransaction from pg_locks where classid = $1 and objid = $2 and not granted "
            "and database = (select oid from pg_database where datname = current_database())"
        )
        transaction: str | None = await self._connection.fetchval(waiting, GATES, self._number)
        return transaction

    async def open(self) -> None:
        await self._connection.execute("select pg_advisory_unlock($1, $2)", GATES, self._number)


class StepsFolder:
    """A folder of *_stream.py and *_step.py files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


@dataclass
class View:
    """What a client knows of a group, or of one item: its sync, and every frame since folded into it.

    A frame that can't follow what was before is an AssertionError: a create of what is there, an update or
    delete of what is not, an item without its id, a time that stands still for an item or falls.
    """

    stream: str
    group: str
    item: str | None
    items: dict[str, Any] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)  # since the first sync, which is the first
    _time: float = 0.0
    _times: dict[str, float] = field(default_factory=dict)

    @property
    def is_synced(self) -> bool:
        return bool(self.frames)

    @property
    def seen(self) -> list[tuple[str, Any]]:
        """What came after the first sync, as (type, data); of an event, its own type and data."""
        return [seen_of(frame) for frame in self.frames[1:]]

    def take(self, frame: Frame) -> None:
        """Fold a frame in, if it is about this group or item."""
        if (frame["streamName"], frame["groupId"]) != (self.stream, self.group):
            return
        kind, id = frame["event"]["type"], frame.get("id")
        is_sync_of_this = kind == "sync" and id == self.item
        if (self.item is not None and id != self.item) or not (self.is_synced or is_sync_of_this):
            return
        if kind == "sync" and not is_sync_of_this:
            return
        assert frame["timestamp"] >= self._time, (frame, self._time)
        self._time = frame["timestamp"]
        if seen_of(frame)[0].startswith(MARK):
            return
        self.frames.append(frame)
        if kind == "sync":
            found = frame["event"]["data"]
            rows = found if self.item is None else [found] if found is not None else []
            self.items = {row["id"]: row for row in rows}
            assert len(self.items) == len(rows), frame
        elif kind != "event":
            assert id is not None
            self._change(kind, id, frame)

    def _change(self, kind: str, id: str, frame: Frame) -> None:
        data = frame["event"]["data"]
        assert data["id"] == id, frame
        assert (id in self.items) == (kind != "create"), (frame, self.items.get(id))
        assert frame["timestamp"] > self._times.get(id, 0.0), frame
        self._times[id] = frame["timestamp"]
        if kind == "delete":
            del self.items[id]
        else:
            self.items[id] = data


def seen_of(frame: Frame) -> tuple[str, Any]:
    """A frame as (type, data); of an event, its own type and data."""
    event = frame["event"]["event"] if frame["event"]["type"] == "event" else frame["event"]
    return event["type"], event["data"]


class Subscriber:
    """One WebSocket connection in Motia's dialect."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._views: list[View] = []

    @classmethod
    @asynccontextmanager
    async def connect(cls, server: Server, token: str | None = None, path: str = "/") -> AsyncIterator[Subscriber]:
        protocols: Any = ["Authorization", token] if token else None
        async with connect(
            server.ws_url + path,
            subprotocols=protocols,
            max_size=None,
            max_queue=None,
            proxy=None,
            open_timeout=FRAME_TIMEOUT_SECONDS,
        ) as socket:
            yield cls(socket)

    async def join(self, stream: str, group: str, item: str | None = None, subscription: str | None = None) -> str:
        """Send a join; returns the subscription's id."""
        return await self._send("join", stream, group, item, subscription or f"s{next(_serial)}")

    async def watch(self, stream: str, group: str, item: str | None = None) -> View:
        """Join. Frames that are read from now on, beginning with the sync, are folded into the view."""
        view = View(stream, group, item)
        self._views.append(view)
        await self.join(stream, group, item)
        return view

    async def view(self, stream: str, group: str, item: str | None = None) -> View:
        """Join, and wait for the sync."""
        view = await self.watch(stream, group, item)
        await self.until(lambda _: view.is_synced)
        return view

    async def until_mark(self, sql: asyncpg.Connection[Any], view: View) -> list[Frame]:
        """All frames of what was committed before this call: those up to an event that is sent now.

        Views and answers are without such events.
        """
        mark = f"{MARK}{next(_serial)}"
        await sql.execute("select streams.send($1, $2, $3, $4, 'null')", view.stream, view.group, view.item, mark)
        frames = await self.until(lambda frame: seen_of(frame)[0] == mark)
        return [frame for frame in frames if not seen_of(frame)[0].startswith(MARK)]

    async def leave(self, stream: str, group: str, item: str | None, subscription: str) -> None:
        await self._send("leave", stream, group, item, subscription)

    async def next(self) -> Frame:
        """The next frame."""
        async with asyncio.timeout(FRAME_TIMEOUT_SECONDS):
            frame = dict(json.loads(await self.socket.recv()))
        for view in self._views:
            view.take(frame)
        return frame

    async def until(self, wanted: Callable[[Frame], bool]) -> list[Frame]:
        """All frames up to the first that is wanted."""
        frames = []
        while True:
            frames.append(await self.next())
            if wanted(frames[-1]):
                return frames

    async def _send(self, type: str, stream: str, group: str, item: str | None, subscription: str) -> str:
        data = {"streamName": stream, "groupId": group, "id": item, "subscriptionId": subscription}
        await self.socket.send(json.dumps({"type": type, "data": data}))
        return subscription
