"""The README's code blocks, run as they stand."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.acceptance.test_motia_client import client_folder  # noqa: F401 - a fixture
from tests.harness import PROGRAM_TIMEOUT_SECONDS, ROOT, Subscriber, eventually, server_environment

README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)(?: ([\w./-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "127.0.0.1:3000"


def blocks(language: str) -> list[tuple[str, str]]:
    """The README's blocks in a language: (file name, text)."""
    return [(name, text) for found, name, text in BLOCK.findall(README) if found == language]


@pytest.fixture
async def server(start_server: Any, steps: Any) -> Any:
    """A server for the README's own stream and step."""
    for name, text in blocks("python"):
        steps.write(name, text)
    return await start_server(steps_dir=steps.path)


async def test_the_stream_the_step_and_the_update_by_sql_reach_a_subscriber(server: Any) -> None:
    """What the README says of a stream and a step happens: the post, its event, and the change made by SQL."""
    ((_, curl),) = blocks("sh")
    update = next(sql for _, sql in blocks("sql") if sql.startswith("update streams.job"))
    async with Subscriber.connect(server) as subscriber:
        await subscriber.join("job", "ada")
        assert (await subscriber.next())["event"] == {"type": "sync", "data": []}
        answer = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-c", curl.replace(ADDRESS, f"127.0.0.1:{server.port}")],
            check=True,
            capture_output=True,
            timeout=PROGRAM_TIMEOUT_SECONDS,
        )
        job = {"id": "j1", "title": "index the library", "done": 0}
        assert json.loads(answer.stdout) == job
        assert (await subscriber.next())["event"] == {"type": "create", "data": job}
        assert (await subscriber.next())["event"]["event"] == {"type": "started", "data": {"id": "j1"}}
        connection = await asyncpg.connect(server.database_url)
        await connection.execute(update)
        await connection.close()
        assert (await subscriber.next())["event"] == {"type": "update", "data": {**job, "done": 50}}


async def test_the_javascript_client_prints_what_it_sees(server: Any, client_folder: Path) -> None:  # noqa: F811
    """The README's Node program prints the group and the event."""
    ((_, program),) = blocks("js")
    program = program.replace(ADDRESS, f"127.0.0.1:{server.port}")
    node = await asyncio.create_subprocess_exec("node", "-e", program, cwd=client_folder, stdout=subprocess.PIPE)
    assert node.stdout is not None
    try:
        async with (
            asyncio.timeout(PROGRAM_TIMEOUT_SECONDS),
            server.http() as http,
        ):
            assert await node.stdout.readline() == b"[]\n"
            await http.post("/users/ada/jobs", json={"id": "j1", "title": "index the library"})
            assert b"index the library" in await node.stdout.readline()
            assert await node.stdout.readline() == b"started j1\n"
    finally:
        node.kill()
        await node.wait()


@asynccontextmanager
async def running(name: str, server: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """One of the README's Python programs at work, on this server."""
    program = dict(blocks("python"))[name].replace(ADDRESS, f"127.0.0.1:{server.port}")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-u",
        "-c",
        program,
        cwd=ROOT,
        env=server_environment(server.database_url, None),
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def test_the_python_client_prints_what_it_sees(server: Any) -> None:
    """The README's Python program prints the group, the post and the event."""
    async with (
        running("follow_jobs.py", server) as program,
        server.http() as http,
        asyncio.timeout(PROGRAM_TIMEOUT_SECONDS),
    ):
        assert program.stdout is not None
        assert await program.stdout.readline() == b"there are []\n"
        await http.post("/users/ada/jobs", json={"id": "j1", "title": "index the library"})
        assert await program.stdout.readline() == b"changed [('create', 'j1')]\n"
        assert await program.stdout.readline() == b"event started {'id': 'j1'}\n"


async def test_the_durable_consumer_queues_each_mail_once(server: Any) -> None:
    """The README's consumer handles every job once, though it is killed and there are two of it."""
    connection = await asyncpg.connect(server.database_url)
    await connection.execute(next(sql for _, sql in blocks("sql") if sql.startswith("create table mail")))
    position = "select position from streams.consumer where name = 'mailer'"
    head = "select max(number) from streams.commit"

    async def caught_up(commits: int) -> bool:
        return bool(await connection.fetchval(f"select ({position}) = ({head}) and ({head}) = $1", commits))

    async with server.http() as http:
        for first in (1, 2):
            async with running("queue_mails.py", server), running("queue_mails.py", server):
                await http.post("/users/ada/jobs", json={"id": f"j{first}", "title": f"job {first}"})
                await eventually(lambda: caught_up(first))  # noqa: B023 - awaited here
    mails = [tuple(row) for row in await connection.fetch("select recipient, subject from mail")]
    assert mails == [("ada", "job 1 has begun"), ("ada", "job 2 has begun")]
    await connection.close()


async def test_an_invalid_body_is_answered_in_the_form_that_the_readme_shows(server: Any) -> None:
    """The error block has the keys, and the code and path, of a real answer."""
    ((_, shown),) = blocks("json")
    async with server.http() as http:
        answer = await http.post("/users/ada/jobs", json={"id": "j1", "title": ""})
    error, expected = answer.json()["error"], json.loads(shown)["error"]
    assert answer.status_code == 400
    assert error.keys() == expected.keys()
    assert error["code"] == expected["code"]
    assert [detail["path"] for detail in error["details"]] == [detail["path"] for detail in expected["details"]]


async def test_the_history_queries_answer_what_they_say(start_server: Any, database_url: str) -> None:
    """The README's three history queries run on the example's stream, and answer their questions."""
    server = await start_server()
    async with server.http() as http:
        posted = await http.post("/chat/general/messages", json={"author": "ada", "text": "helo"})
        message = f"/chat/general/messages/{posted.json()['id']}"
        await http.patch(message, json={"text": "hello"})
        async with Subscriber.connect(server) as subscriber:
            await subscriber.join("chatMessage", "general")
            await subscriber.next()  # the sync: both commits have their numbers
    connection = await asyncpg.connect(database_url)
    in_order, an_hour_ago, before_and_after = [sql for _, sql in blocks("sql") if "_history" in sql]
    assert [row["op"] for row in await connection.fetch(in_order)] == ["create", "update"]
    assert await connection.fetch(an_hour_ago) == []
    now = an_hour_ago.replace("now() - interval '1 hour'", "now()")
    assert [json.loads(row["data"])["text"] for row in await connection.fetch(now)] == ["hello"]
    (edit,) = await connection.fetch(before_and_after)
    assert (edit["op"], edit["before"], edit["after"]) == ("update", "helo", "hello")
    await connection.close()
