"""The page that the WebSocket's README shows, in a real browser: `tidelog.v1` in a page of one file."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from playwright.async_api import Browser, Page, WebSocket, expect

from tests.acceptance.chat_page.conftest import TIMEOUT_MS
from tests.acceptance.test_readme import PAGES, WEB, blocks
from tests.conftest import StartServer
from tests.harness import StepsFolder, eventually, until_numbered
from tidelog.web.dialects.tidelog import TidelogDialect, parse

INSERT = """
    insert into streams.job (group_id, id, data)
    select 'ada', $1::text || i, jsonb_build_object('title', $2::text || i, 'done', i)
    from generate_series($3::int, $4::int) i
"""
ROW = re.compile(r"^\| (client|server) \| `(\w+)` \| (.*?) \|", re.MULTILINE)
FIELD = re.compile(r"`(\w+)`(\?)?")


class Sockets:
    """What a page's sockets sent and received, one list of messages for each socket."""

    def __init__(self, page: Page) -> None:
        self.sent: list[list[dict[str, Any]]] = []
        self.received: list[list[dict[str, Any]]] = []
        page.on("websocket", self._follow)

    def _follow(self, socket: WebSocket) -> None:
        sent: list[dict[str, Any]] = []
        received: list[dict[str, Any]] = []
        self.sent.append(sent)
        self.received.append(received)
        socket.on("framesent", lambda frame: sent.append(json.loads(frame)))
        socket.on("framereceived", lambda frame: received.append(json.loads(frame)))

    async def until_received(self, kind: str) -> None:
        """On the newest."""
        await eventually(lambda: self.received and any(one["type"] == kind for one in self.received[-1]))


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    context = await browser.new_context()
    context.set_default_timeout(TIMEOUT_MS)
    yield await context.new_page()
    await context.close()


@pytest.fixture
def jobs(steps: StepsFolder) -> StepsFolder:
    """The README's stream and step, and the page and its step."""
    for name, text in [*blocks("python"), *blocks("html", WEB), *blocks("python", WEB)]:
        if name.endswith((".html", "_stream.py", "_step.py")):
            steps.write(name, text)
    return steps


def check_table(sockets: Sockets) -> None:
    """The README's table has every field of every message, and no others."""
    for side, by_socket in (("client", sockets.sent), ("server", sockets.received)):
        for messages in by_socket:
            for message in messages:
                check_row(side, message)


def check_row(side: str, message: dict[str, Any]) -> None:
    """Of one message."""
    (fields,) = [FIELD.findall(fields) for *row, fields in ROW.findall(PAGES[WEB]) if row == [side, message["type"]]]
    needed = {"type"} | {name for name, optional in fields if not optional}
    assert needed <= message.keys() <= needed | {name for name, _ in fields}, message


def test_the_table_has_the_messages_that_are_rarely_sent() -> None:
    """Those that a page which is all well doesn't get; there are no other types."""
    dialect = TidelogDialect()
    messages = (
        dialect.status(interrupted=True, position=1, epoch="e"),
        dialect.error("code", "about no subscription"),
        dialect.passed("4711", 1),
    )
    for message in messages:
        check_row("server", json.loads(message.payloads[0]))
    for wanted in (
        {"type": "subscribe", "id": "a", "stream": "s", "group": "g", "item": "i", "since": 1, "epoch": "e"},
        {"type": "unsubscribe", "id": "a"},
        {"type": "wait", "transaction": "4711"},
    ):
        check_row("client", wanted)
        parse(json.dumps(wanted))
    assert len(ROW.findall(PAGES[WEB])) == 11


async def test_the_page_shows_what_is_committed_and_goes_on_after_a_restart(
    jobs: StepsFolder, start_server: StartServer, page: Page
) -> None:
    """A snapshot in pages, changes, events; the commits of a restart, without a snapshot; one where they are gone."""
    server = await start_server(steps_dir=jobs.path)
    sql = await asyncpg.connect(server.database_url)
    sockets = Sockets(page)
    logged: list[str] = []
    page.on("console", lambda message: logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    lines = page.locator("#jobs li")

    # More than a page of a snapshot takes.
    await sql.execute(INSERT, "old", "x" * 200, 1, 3000)
    await until_numbered(sql)
    await page.goto(f"{server.url}/jobs")
    await expect(lines).to_have_count(3000)
    snapshots = [one for one in sockets.received[0] if one["type"] == "snapshot"]
    assert len(snapshots) > 1 and [one["more"] for one in snapshots] == [True] * (len(snapshots) - 1) + [False]
    await sql.execute("delete from streams.job")
    await expect(lines).to_have_count(0)

    async with server.http() as http:
        await http.post("/users/ada/jobs", json={"id": "j1", "title": "index the library"})
    await expect(lines).to_have_text(["index the library: 0 %"])
    await eventually(lambda: any(line.startswith("started") for line in logged))
    await sql.execute(next(text for _, text in blocks("sql") if text.startswith("update streams.job")))
    await expect(lines).to_have_text(["index the library: 50 %"])
    # SQL isn't checked against the schema, and a default of it isn't stored.
    await sql.execute("update streams.job set data = data - 'done'")
    await expect(lines).to_have_text(["index the library: 0 %"])

    # What happens while it is restarted comes as commits.
    await server.stop()
    await sql.execute(INSERT, "j", "job ", 2, 3)
    await sql.execute("delete from streams.job where id = 'j1'")
    server = await start_server(steps_dir=server.steps_dir, port=server.port)
    await expect(lines).to_have_text(["job 2: 2 %", "job 3: 3 %"])
    await sockets.until_received("live")
    (asked,) = sockets.sent[-1]
    assert asked["since"] and asked["epoch"]
    assert {one["type"] for one in sockets.received[-1]} == {"commit", "live"}

    # What is not kept any more is replaced by a snapshot.
    await server.stop()
    await sql.execute("delete from streams.commit where number <= 2")
    await page.evaluate("place.since = 1")
    await start_server(steps_dir=server.steps_dir, port=server.port)
    await sockets.until_received("live")
    assert [one["type"] for one in sockets.received[-1]] == ["reset", "snapshot", "live"]
    await expect(lines).to_have_text(["job 2: 2 %", "job 3: 3 %"])

    # The browser itself reports connections that fail, and that there is no icon. The page has nothing to report.
    theirs = ("started", "WebSocket connection to", "Failed to load resource")
    assert [line for line in logged if not line.startswith(theirs)] == []
    check_table(sockets)
    await sql.close()


async def test_the_page_says_why_it_shows_nothing(jobs: StepsFolder, start_server: StartServer, page: Page) -> None:
    """An error of the server's is on the console."""
    file = jobs.path / "jobs_page.html"
    file.write_text(file.read_text().replace("stream: 'job'", "stream: 'jobs'"))
    server = await start_server(steps_dir=jobs.path)
    sockets = Sockets(page)
    logged: list[str] = []
    page.on("console", lambda message: logged.append(message.text))
    await page.goto(f"{server.url}/jobs")
    await eventually(lambda: "STREAM_ACCESS_DENIED there is no such stream, or it is not for you" in logged)
    check_table(sockets)
