"""Workers as processes of their own, and the commands that look after what was given up."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests import forks
from tests.conftest import StartServer
from tests.harness import (
    ROOT,
    STOP_TIMEOUT_SECONDS,
    Server,
    StepsFolder,
    connect_sql,
    eventually,
    server_environment,
)

STREAM = 'config = {"name": "note", "schema": {"type": "object"}, "baseConfig": {"storageType": "default"}}'
EMIT = """
config = {"type": "api", "name": "Emit", "method": "POST", "path": "/emit", "emits": ["good", "bad"]}
async def handler(req, context):
    for topic in ("good", "bad"):
        await context.emit({"topic": topic, "data": {"id": topic}})
    return {"status": 200}
"""
GOOD = """
config = {"type": "event", "name": "Good", "subscribes": ["good"], "emits": []}
async def handler(input, context):
    await context.streams.note.set("g", input["id"], {})
"""
BAD = """
config = {"type": "event", "name": "Bad", "subscribes": ["bad"], "emits": [],
          "infrastructure": {"queue": {"maxRetries": 0}}}
async def handler(input, context):
    raise ValueError(f"no good: {input['id']}")
"""


@asynccontextmanager
async def worker(server: Server, *options: str) -> AsyncIterator[None]:
    """`tidelog work`, until it is asked to end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidelog.cli", "work", *options),
        cwd=ROOT,
        env=server_environment(server.database_url, server.steps_dir),
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert (await process.stdout.readline()).startswith(b"Tidelog works for ")
        yield
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), STOP_TIMEOUT_SECONDS) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def jobs(server: Server, *command: str) -> str:
    environment = server_environment(server.database_url, server.steps_dir)
    done = await asyncio.to_thread(forks.run, "tidelog.cli", ["jobs", *command], environment)
    done.check_returncode()
    return done.stdout


async def refused(server: Server, *command: str) -> str:
    """What a command of `tidelog` that can't be done says, and where."""
    environment = server_environment(server.database_url, server.steps_dir)
    done = await asyncio.to_thread(forks.run, "tidelog.cli", command, environment)
    assert (done.returncode, done.stdout) == (1, ""), done
    return done.stderr


async def test_a_job_or_a_topic_that_there_isn_t_is_told(start_server: StartServer, steps: StepsFolder) -> None:
    """By status 1 and a line of what there is: a mistyped one looked as if something had been done, or would be."""
    for name, text in {"note_stream": STREAM, "emit_step": EMIT, "good_step": GOOD, "bad_step": BAD}.items():
        steps.write(f"{name}.py", text)
    server = await start_server(steps_dir=steps.path)
    for command in ("retry", "drop", "show"):
        assert await refused(server, "jobs", command, "99") == (
            "tidelog: job_unknown: no job 99 is parked: `tidelog jobs list` shows those that are\n"
        )
    for command in ("retry", "drop"):
        assert "no job of step 'Baad' is parked" in await refused(server, "jobs", command, "--step", "Baad")
    assert await refused(server, "work", "--topics", "goood") == (
        "tidelog: topic_unknown: no step subscribes to 'goood': there are bad, good\n"
    )


async def test_what_is_erased_or_was_not_there_is_told(start_server: StartServer, steps: StepsFolder) -> None:
    """A second time there is nothing of it, which is what was wanted: that is no error, and isn't told as work."""
    steps.write("note_stream.py", STREAM)
    server = await start_server(steps_dir=steps.path)
    sql = await connect_sql(server.database_url)
    await sql.execute("insert into streams.note (group_id, id, data) values ('g', 'a', '{}')")
    await sql.close()
    environment = server_environment(server.database_url, server.steps_dir)
    told = []
    for what in (["g", "a"], ["g", "a"], ["h"]):
        done = await asyncio.to_thread(forks.run, "tidelog.cli", ["erase", "note", *what, "--yes"], environment)
        told.append((done.returncode, done.stdout))
    assert told == [
        (0, "tidelog: erased, from 2 rows of the history.\n"),
        (0, "tidelog: there was nothing of item 'a' of group 'g' to be erased.\n"),
        (0, "tidelog: there was nothing of group 'h' of stream 'note' to be erased.\n"),
    ]


async def test_a_server_leaves_its_work_to_processes_of_their_own_and_what_is_parked_to_people(
    start_server: StartServer, steps: StepsFolder
) -> None:
    """A server that runs none, a worker for one topic, one for all. What fails is listed, shown, retried, dropped."""
    for name, text in {"note_stream": STREAM, "emit_step": EMIT, "good_step": GOOD, "bad_step": BAD}.items():
        steps.write(f"{name}.py", text)
    server = await start_server(steps_dir=steps.path, TIDELOG_WORK_AT_ONCE_MAX="0")
    sql = await connect_sql(server.database_url)
    async with server.http() as http:
        assert (await http.post("/emit")).status_code == 200
    assert "waiting  Good: 1" in await jobs(server, "list")
    async with worker(server, "--topics", "good, other"):
        await eventually(lambda: sql.fetchval("select exists (select from streams.note where id = 'good')"))
    listed = await jobs(server, "list")
    assert "waiting  Bad: 1, of which 0 run" in listed and "Good" not in listed
    async with worker(server):
        await eventually(lambda: sql.fetchval("select exists (select from streams.step_parked)"))
        id = str(await sql.fetchval("select id from streams.step_parked"))
        assert f"parked   {id}" in await jobs(server, "list", "--step", "Bad")
        shown = await jobs(server, "show", id)
        assert "ValueError: no good: bad" in shown and '"id": "bad"' in shown and "bad_step.py" in shown
        assert await jobs(server, "retry", id) == "1 to be tried again\n"
        await eventually(lambda: sql.fetchval("select exists (select from streams.step_parked)"))
        assert await jobs(server, "drop", "--step", "Bad") == "1 dropped\n"
    assert await jobs(server, "list") == "nothing waits, and nothing is parked\n"
    await sql.close()
