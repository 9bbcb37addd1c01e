"""The code blocks of the README and of the pages that it leads to, run as they stand."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import httpx
import pytest

from tests.acceptance.test_motia_client import client_folder  # noqa: F401 - a fixture
from tests.conftest import StartServer
from tests.harness import (
    HTTP_TIMEOUT_SECONDS,
    PROGRAM_TIMEOUT_SECONDS,
    ROOT,
    Databases,
    Server,
    StepsFolder,
    Subscriber,
    eventually,
    free_port,
    server_environment,
    until_numbered,
)
from tidelog.errors import DeclarationError
from tidelog.runtime.discovery import discover

PAGES = {
    name: (ROOT / name / "README.md").read_text()
    for name in (
        "",
        "app",
        "app/tidelog/access",
        "app/tidelog/client",
        "app/tidelog/runtime",
        "app/tidelog/testing",
        "app/tidelog/web",
        "migrations",
        "scripts",
        "tests",
    )
}
BLOCK = re.compile(r"^```(\w+)(?: ([\w./-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "127.0.0.1:3000"
CLIENT = "app/tidelog/client"
TESTING = "app/tidelog/testing"
WEB = "app/tidelog/web"
ACCESS = "app/tidelog/access"
TOKEN = "a-token-of-adas"


def blocks(language: str, page: str = "") -> list[tuple[str, str]]:
    """The blocks of a page, the README itself or a folder's, in a language: (file name, text)."""
    return [(name, text) for found, name, text in BLOCK.findall(PAGES[page]) if found == language]


@pytest.fixture
async def server(start_server: StartServer, steps: StepsFolder) -> Server:
    """A server for the README's own stream and step."""
    for name, text in blocks("python"):
        steps.write(name, text)
    return await start_server(steps_dir=steps.path)


async def test_the_stream_the_step_and_the_update_by_sql_reach_a_subscriber(server: Server) -> None:
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


async def test_the_javascript_client_prints_what_it_sees(server: Server, client_folder: Path) -> None:  # noqa: F811
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
async def running(name: str, server: Server, page: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    """A page's Python program at work, on this server."""
    program = dict(blocks("python", page))[name].replace(ADDRESS, f"127.0.0.1:{server.port}")
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
        with suppress(ProcessLookupError):  # it may have done what it does
            process.kill()
        await process.wait()


async def test_the_python_client_prints_what_it_sees(server: Server) -> None:
    """The page's Python program prints the group, the post and the event."""
    async with (
        running("follow_jobs.py", server, CLIENT) as program,
        server.http() as http,
        asyncio.timeout(PROGRAM_TIMEOUT_SECONDS),
    ):
        assert program.stdout is not None
        assert await program.stdout.readline() == b"there are []\n"
        await http.post("/users/ada/jobs", json={"id": "j1", "title": "index the library"})
        assert await program.stdout.readline() == b"changed [('create', 'j1')]\n"
        assert await program.stdout.readline() == b"event started {'id': 'j1'}\n"


async def test_the_durable_consumer_queues_each_mail_once(server: Server) -> None:
    """Though the page's consumer is killed, and there are two of it. What was written without a title it leaves out."""
    connection = await asyncpg.connect(server.database_url)
    await connection.execute(next(sql for _, sql in blocks("sql", CLIENT) if sql.startswith("create table mail")))
    position = "select position from streams.consumer where name = 'mailer'"
    head = "select max(number) from streams.commit"

    async def caught_up(commits: int) -> bool:
        return bool(await connection.fetchval(f"select ({position}) = ({head}) and ({head}) = $1", commits))

    async with server.http() as http:
        for first in (1, 2):
            async with running("queue_mails.py", server, CLIENT), running("queue_mails.py", server, CLIENT):
                await http.post("/users/ada/jobs", json={"id": f"j{first}", "title": f"job {first}"})
                await eventually(lambda: caught_up(first))  # noqa: B023 - awaited here
        async with running("queue_mails.py", server, CLIENT) as program:
            await connection.execute("insert into streams.job (group_id, id, data) values ('ada', 'odd', '{}')")
            await eventually(lambda: caught_up(3))
            assert program.stdout is not None
            assert await program.stdout.readline() == b"left out 3 ada odd\n"
    mails = [tuple(row) for row in await connection.fetch("select recipient, subject from mail")]
    assert mails == [("ada", "job 1 has begun"), ("ada", "job 2 has begun")]
    await connection.close()


async def test_a_consumer_finds_what_an_item_was_before(server: Server) -> None:
    """By the page's statement, also of an item that its transaction set twice; nothing, where there was nothing."""
    connection = await asyncpg.connect(server.database_url)
    before = next(sql for _, sql in blocks("sql", CLIENT) if sql.startswith("select data"))
    await connection.execute("insert into streams.job (group_id, id, data) values ('ada', 'j1', '{\"done\": 0}')")
    async with connection.transaction():
        for done in (1, 2):
            await connection.execute("update streams.job set data = jsonb_build_object('done', $1::int)", done)
    await until_numbered(connection)
    found = []
    for change in await connection.fetch("select * from streams.job_history order by position, seq"):
        was = await connection.fetchval(before, change["group_id"], change["id"], change["position"], change["seq"])
        found.append(was if was is None else json.loads(was)["done"])
    assert found == [None, 0, 1]
    await connection.close()


async def test_an_invalid_body_is_answered_in_the_form_that_the_readme_shows(server: Server) -> None:
    """The error block has the keys, and the code and path, of a real answer."""
    ((_, shown),) = blocks("json", "app/tidelog/runtime")
    async with server.http() as http:
        answer = await http.post("/users/ada/jobs", json={"id": "j1", "title": ""})
    error, expected = answer.json()["error"], json.loads(shown)["error"]
    assert answer.status_code == 400
    assert error.keys() == expected.keys()
    assert error["code"] == expected["code"]
    assert [detail["path"] for detail in error["details"]] == [detail["path"] for detail in expected["details"]]


async def test_a_job_that_is_there_is_not_begun_again(server: Server) -> None:
    """And what the README's models don't mention is refused."""
    async with server.http() as http:
        job = {"id": "j1", "title": "index the library"}
        assert (await http.post("/users/ada/jobs", json=job)).status_code == 201
        assert (await http.post("/users/ada/jobs", json=job)).status_code == 409
        refused = (await http.post("/users/ada/jobs", json={**job, "titel": "x"})).json()["error"]
        assert refused["code"] == "body_invalid" and "titel" in refused["message"]


async def test_the_steps_that_react_do_what_the_page_says(start_server: StartServer, steps: StepsFolder) -> None:
    """The request emits, the event's step changes the item, the stream's step tells of it; the page's SQL runs."""
    for name, text in [*blocks("python"), *blocks("python", "app/tidelog/runtime")]:
        steps.write(name, text)
    server = await start_server(steps_dir=steps.path)
    ((_, queries),) = blocks("sql", "app/tidelog/runtime")
    connection = await asyncpg.connect(server.database_url)
    async with Subscriber.connect(server) as subscriber, server.http() as http:
        await subscriber.join("job", "ada")
        await subscriber.next()
        await http.post("/users/ada/jobs", json={"id": "j1", "title": "index the library"})
        assert (await http.post("/users/ada/jobs/j1/index")).status_code == 202
        seen = [(await subscriber.next())["event"] for _ in range(4)]
    assert seen[2] == {"type": "update", "data": {"id": "j1", "title": "index the library", "done": 100}}
    assert seen[3]["event"] == {"type": "done", "data": {"title": "index the library"}}
    await connection.execute(queries)
    await connection.close()


async def test_two_writers_of_one_item_lose_nothing(start_server: StartServer, steps: StepsFolder) -> None:
    """The page's step counts to as many as have called it at once; and its query finds what it has counted."""
    for name, text in [*blocks("python"), *blocks("python", "app/tidelog/runtime")]:
        steps.write(name, text)
    server = await start_server(steps_dir=steps.path)
    async with server.http() as http:
        assert (await http.post("/users/ada/jobs/j1/done")).status_code == 404
        await http.post("/users/ada/jobs", json={"id": "j1", "title": "index the library"})
        answers = await asyncio.gather(*(http.post("/users/ada/jobs/j1/done") for _ in range(20)))
        assert sorted(answer.json()["done"] for answer in answers) == list(range(1, 21))
        assert [job["done"] for job in (await http.get("/users/ada/open-jobs")).json()] == [20]


async def test_a_program_can_wait_for_its_commits_number(server: Server) -> None:
    """By the statements of the page, which has the transaction's id between them."""
    (block,) = [sql for _, sql in blocks("sql", "migrations") if sql.startswith("begin;")]
    begin, update, ask, commit, look = [line.partition("--")[0].strip() for line in block.strip().split("\n")]
    async with server.http() as http:
        await http.post("/users/ada/jobs", json={"id": "j1", "title": "index the library"})
    connection = await asyncpg.connect(server.database_url)
    await connection.execute(begin)
    await connection.execute(update)
    mine = str(await connection.fetchval(ask))
    await connection.execute(commit)
    number = await eventually(lambda: connection.fetchval(look.replace("4711", mine)))
    history = "select data ->> 'done' from streams.job_history where position = $1"
    assert await connection.fetchval(history, number) == "60"
    await connection.close()


async def test_events_are_sent_by_sql_as_the_page_says(server: Server) -> None:
    """The statement stands in a line of its list."""
    send = re.search(r"`(select\s+streams\.send\(.*?\))`", PAGES["migrations"], re.DOTALL)
    assert send is not None
    connection = await asyncpg.connect(server.database_url)
    async with Subscriber.connect(server) as subscriber:
        await subscriber.join("job", "ada")
        await subscriber.next()
        await connection.execute(send[1])
        assert (await subscriber.next())["event"]["event"] == {"type": "finished", "data": {"id": "j1"}}
    await connection.close()


def test_every_block_is_one_that_a_test_runs() -> None:
    """A block of another name or kind would be true by chance: give it a test, and name it here."""
    known = {
        "": ["job_stream.py", "start_job_step.py", "sh", "js", "sql", "sql"],
        "app/tidelog/client": ["follow_jobs.py", "sql", "queue_mails.py", "sql"],
        "app/tidelog/runtime": [
            "begin_index_step.py",
            "index_step.py",
            "announce_step.py",
            "forget_jobs_step.py",
            "sql",
            "add_done_step.py",
            "open_jobs_step.py",
            "json",
        ],
        "app/tidelog/access": ["stream_auth.py", "diary_stream.py", "write_diary_step.py", "sh", "sql"],
        "app/tidelog/testing": [
            "pyproject.toml",
            "tests/conftest.py",
            "tests/test_jobs.py",
            "tests/test_reactions.py",
            "conftest.py",
            "test_shop.py",
        ],
        "app/tidelog/web": ["jobs_page.html", "jobs_page_step.py", "shop.py", "orders.py", "mark_done.py"],
        "migrations": ["sql", "sql", "sql", "sql", "sql", "sql", "grants.sql", "work_grants.sql"],
    }
    for page, text in PAGES.items():
        assert [name or language for language, name, _ in BLOCK.findall(text)] == known.get(page, []), page


async def test_the_history_queries_answer_what_they_say(start_server: StartServer, database_url: str) -> None:
    """The page's queries of the past run on the example's stream, and answer their questions."""
    server = await start_server()
    async with server.http() as http:
        posted = await http.post("/chat/general/messages", json={"author": "ada", "text": "helo"})
        message = f"/chat/general/messages/{posted.json()['id']}"
        await http.patch(message, json={"text": "hello"})
        async with Subscriber.connect(server) as subscriber:
            await subscriber.join("chatMessage", "general")
            await subscriber.next()  # the sync: both commits have their numbers
    connection = await asyncpg.connect(database_url)
    in_order, an_hour_ago, since_then, before_and_after = [
        sql for _, sql in blocks("sql", "migrations") if "streams.chat_message_" in sql
    ]
    assert [row["op"] for row in await connection.fetch(in_order)] == ["create", "update"]
    assert await connection.fetch(an_hour_ago) == []
    dated = re.search(r"`streams\.job(_as_of\(timestamptz .*?\))`", PAGES["migrations"])
    assert dated is not None
    with suppress(asyncpg.InvalidParameterValueError):  # by the clock it may be before the log
        await connection.fetch(f"select * from streams.chat_message{dated[1]}")
    with pytest.raises(asyncpg.AmbiguousFunctionError, match="is not unique"):
        await connection.fetch(f"select * from streams.chat_message{dated[1].replace('timestamptz ', '')}")
    now = an_hour_ago.replace("now() - interval '1 hour'", "now()")
    assert [json.loads(row["data"])["text"] for row in await connection.fetch(now)] == ["hello"]
    (made,) = await connection.fetch(since_then)
    assert (made["op"], made["before"], made["after"]) == ("create", None, "hello")
    (edit,) = await connection.fetch(before_and_after)
    assert (edit["op"], edit["before"], edit["after"]) == ("update", "helo", "hello")
    (erase,) = [sql for _, sql in blocks("sql", "migrations") if "streams.erase" in sql]
    assert await connection.fetchval(erase.replace("m1", edit["id"])) == 3  # and the delete's own
    left = await connection.fetch("select data::text, erased_at is not null as erased from streams.change")
    assert [tuple(row) for row in left] == [(json.dumps({"id": edit["id"]}), True)] * 3
    await connection.close()


async def test_a_worker_writes_to_the_streams_without_a_server(server: Server) -> None:
    """The program with tidelog.open: one item by itself, then a change and an event together."""
    async with Subscriber.connect(server) as subscriber:
        await subscriber.join("job", "ada")
        await subscriber.next()
        async with running("mark_done.py", server, WEB) as program:
            assert await program.wait() == 0
        assert [(await subscriber.next())["event"]["type"] for _ in range(3)] == ["create", "update", "event"]


async def test_the_page_on_access_lets_ada_have_her_diary_and_nobody_else(
    start_server: StartServer, steps: StepsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its three files, its request, and its statement: she writes and reads, others are refused, and it can end."""
    for name, text in blocks("python", ACCESS):
        steps.write(name, text)
    monkeypatch.delenv("ADAS_TOKEN", raising=False)
    with pytest.raises(DeclarationError, match="RuntimeError: set ADAS_TOKEN, to any long text"):
        discover(steps.path)
    monkeypatch.setenv("ADAS_TOKEN", TOKEN)
    server = await start_server(steps_dir=steps.path)
    ((_, curl),) = blocks("sh", ACCESS)
    for token, stored in (("", '"unauthorized"'), (TOKEN, '{"id":"monday","text":"hello"}')):
        written = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-c", curl.replace(ADDRESS, f"127.0.0.1:{server.port}")],
            env={**os.environ, "ADAS_TOKEN": token},
            check=True,
            capture_output=True,
            timeout=PROGRAM_TIMEOUT_SECONDS,
        )
        assert stored in written.stdout.decode().replace(": ", ":").replace(", ", ",")
    async with Subscriber.connect(server, TOKEN) as ada, Subscriber.connect(server) as nobody:
        assert (await ada.view("diary", "ada")).items == {"monday": {"id": "monday", "text": "hello"}}
        await nobody.join("diary", "ada")
        denied = (await nobody.next())["event"]["event"]["data"]
        assert denied["code"] == "STREAM_ACCESS_DENIED"
        connection = await asyncpg.connect(server.database_url)
        ((_, recheck),) = blocks("sql", ACCESS)
        await connection.execute(recheck)
        await connection.execute("delete from streams.diary")
        assert (await ada.next())["event"]["type"] == "delete"  # she still may
        await connection.close()


async def test_an_application_with_the_plugin_is_migrated_and_served(databases: Databases, tmp_path: Path) -> None:
    """By Litestar's own command, as the page says; its socket is at the path that it gives."""
    (tmp_path / "shop.py").write_text(dict(blocks("python", WEB))["shop.py"])
    url, port = await databases.create(), free_port()
    environment = server_environment(url, None)
    litestar = [sys.executable, "-m", "litestar", "--app", "shop:app"]
    await asyncio.to_thread(
        subprocess.run,
        [*litestar, "tidelog", "migrate"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
    )
    served = await asyncio.create_subprocess_exec(
        *litestar, "run", "--port", str(port), cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL
    )
    try:
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=HTTP_TIMEOUT_SECONDS) as http,
            asyncio.timeout(PROGRAM_TIMEOUT_SECONDS),
        ):
            await eventually(lambda: is_up(http))
            shop = SimpleNamespace(ws_url=f"ws://127.0.0.1:{port}")
            async with Subscriber.connect(shop, path="/live") as subscriber:  # type: ignore[arg-type]
                view = await subscriber.view("order", "all")
                assert (await http.post("/orders/7/ship")).json() == {"id": "7", "state": "shipped"}
                await subscriber.until(lambda _: bool(view.items))
    finally:
        served.terminate()
        await served.wait()
        await databases.drop(url)


@pytest.mark.slow
def test_a_newcomer_tests_a_step(postgres_url: str, tmp_path: Path) -> None:
    """The files of the page, beside the README's stream and step, and those of the page on steps."""
    for name, text in [*blocks("python"), *blocks("python", "app/tidelog/runtime")]:
        if name.endswith(("_stream.py", "_step.py")):
            write(tmp_path / "steps" / name, text)
    for name, text in [*blocks("toml", TESTING), *blocks("python", TESTING)]:
        if name.startswith(("pyproject", "tests/")):
            write(tmp_path / name, text)
    assert "4 passed" in run_pytest(tmp_path, postgres_url)


@pytest.mark.slow
def test_an_author_tests_their_own_application(postgres_url: str, tmp_path: Path) -> None:
    """The shop of the plugin's page, by the testing page's second conftest."""
    for name, text in [*blocks("toml", TESTING), *blocks("python", TESTING), *blocks("python", WEB)]:
        if not name.startswith("tests/"):
            write(tmp_path / name, text)
    assert "1 passed" in run_pytest(tmp_path, postgres_url)


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def run_pytest(folder: Path, server_url: str) -> str:
    """What it says."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TIDELOG_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--rootdir", folder],
        cwd=folder,
        env=environment | {"TIDELOG_TEST_DATABASE_URL": server_url},
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT_SECONDS,
    )
    return done.stdout


async def is_up(http: httpx.AsyncClient) -> bool:
    try:
        await http.get("/")
    except httpx.TransportError:
        return False
    return True


def test_every_link_leads_somewhere() -> None:
    """Of every page, to a file that is there, and to a heading that it has."""
    for page, text in PAGES.items():
        for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", text):
            file = ROOT / page / (target or "README.md")
            assert file.exists(), f"{page}: {target}"
            if anchor:
                assert anchor in anchors(file.read_text()), f"{page}: {target}#{anchor}"


def anchors(page: str) -> set[str]:
    """What headings are called in links."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings}


def test_the_readme_is_short() -> None:
    """A newcomer reads it to the end; the rest is in pages for whoever needs it."""
    assert PAGES[""].count("\n") <= 150
