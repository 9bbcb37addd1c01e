"""Motia's published Node client, unchanged, against our WebSocket."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.conftest import StartServer
from tests.harness import Databases, Server, StepsFolder, eventually, lift_limits
from tests.node import has_node, install_packages
from tidelog.json_text import parse

FOLDER = Path(__file__).parent / "motia_client"
ACCESS_STEPS = Path(__file__).parent / "access_steps"
DENIED = {"code": "STREAM_ACCESS_DENIED", "message": "Access denied"}
ANSWER_TIMEOUT_SECONDS = 60
RUNS = 20  # Motia's own server leaves the client stale in most of as many

STREAM = """
config = {
    "name": "chatMessage",
    "schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    "baseConfig": {"storageType": "default"},
}
"""

SET = """
config = {"type": "api", "name": "Set", "method": "PUT", "path": "/:group/:id"}

async def handler(req, context):
    where = req["pathParams"]
    item = await context.streams.chatMessage.set(where["group"], where["id"], req["body"])
    return {"status": 200, "body": item}
"""

DELETE = """
config = {"type": "api", "name": "Delete", "method": "DELETE", "path": "/:group/:id"}

async def handler(req, context):
    where = req["pathParams"]
    return {"status": 200, "body": await context.streams.chatMessage.delete(where["group"], where["id"])}
"""

SEND = """
config = {"type": "api", "name": "Send", "method": "POST", "path": "/:group/send"}

async def handler(req, context):
    channel = {"groupId": req["pathParams"]["group"], **req["body"]["channel"]}
    await context.streams.chatMessage.send(channel, {"type": "typing", "data": req["body"]["data"]})
    return {"status": 202}
"""

MANY = """
config = {"type": "api", "name": "Many", "method": "POST", "path": "/:group/many", "transaction": False}

async def handler(req, context):
    for word in range(200):
        await context.streams.chatMessage.set(req["pathParams"]["group"], "answer", {"text": str(word)})
    return {"status": 200, "body": {}}
"""


class MotiaClient:
    """The client in a Node process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def subscribe(self, name: str, stream: str, group: str, item: str | None = None, events: Any = ()) -> None:
        await self._write({"subscribe": name, "stream": stream, "group": group, "item": item, "events": list(events)})

    async def state(self, name: str) -> Any:
        await self._write({"state": name})
        return (await self.until(lambda told: told.get("name") == name and "state" in told))["state"]

    async def until(self, wanted: Any) -> dict[str, Any]:
        """The next thing told that is `wanted`."""
        assert self._process.stdout is not None
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            while line := await self._process.stdout.readline():
                told = parse(line.decode())
                if wanted(told):
                    return dict(told)
        raise AssertionError("the client ended")

    async def changed(self, name: str) -> Any:
        """The next state of the subscription."""
        return (await self.until(lambda told: told.get("name") == name and "changed" in told))["changed"]

    async def _write(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()


@pytest.fixture(scope="module")
def client_folder() -> Path:
    """Motia's client, installed from its lock file."""
    if not has_node():
        pytest.skip("needs Node and npm to run Motia's published client")
    install_packages(FOLDER)
    return FOLDER


@asynccontextmanager
async def motia_client(folder: Path, address: str, *protocols: str) -> AsyncIterator[MotiaClient]:
    process = await asyncio.create_subprocess_exec(
        "node", "drive.js", address, *protocols,
        cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=2**24, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    try:
        client = MotiaClient(process)
        await client.until(lambda told: told.get("open"))
        yield client
    finally:
        with suppress(ProcessLookupError):  # it ends by itself when it isn't let in
            process.kill()
        await process.wait()


@pytest.fixture
async def server(start_server: StartServer, steps: StepsFolder) -> Server:
    for name, text in [
        ("chat_stream.py", STREAM), ("set_step.py", SET), ("delete_step.py", DELETE), ("send_step.py", SEND),
        ("many_step.py", MANY),
    ]:  # fmt: skip
        steps.write(name, text)
    return await start_server(steps_dir=steps.path)


async def test_group_and_item_subscriptions_follow_every_change(server: Server, client_folder: Path) -> None:
    """A group and one of its items see sync, create, update, delete and events, each once and in order."""
    async with (
        motia_client(client_folder, server.ws_url) as client,
        server.http() as http,
    ):
        await client.subscribe("group", "chatMessage", "g", events=["typing"])
        assert await client.changed("group") == []
        await client.subscribe("item", "chatMessage", "g", "a", events=["typing"])
        assert await client.changed("item") is None

        await http.put("/g/a", json={"text": "one"})
        assert await client.changed("item") == {"id": "a", "text": "one"}
        assert await client.changed("group") == [{"id": "a", "text": "one"}]
        await http.put("/g/a", json={"text": "two"})
        assert await client.changed("item") == {"id": "a", "text": "two"}
        assert await client.changed("group") == [{"id": "a", "text": "two"}]

        await http.post("/g/send", json={"channel": {"id": "a"}, "data": {"author": "ada"}})
        seen = [await client.until(lambda told: "event" in told) for _ in range(2)]
        assert [event["name"] for event in seen] == ["item", "group"]
        await http.post("/g/send", json={"channel": {}, "data": {"author": "grace"}})
        event = await client.until(lambda told: "event" in told)
        assert (event["name"], event["data"]) == ("group", {"author": "grace"})

        await http.delete("/g/a")
        assert await client.changed("item") is None
        assert await client.changed("group") == []


async def test_a_late_joiner_of_an_items_group_gets_its_sync(server: Server, client_folder: Path) -> None:
    """A connection that has an item live and then joins the item's group sees the whole group."""
    async with (
        motia_client(client_folder, server.ws_url) as client,
        server.http() as http,
    ):
        await http.put("/g/other", json={"text": "there before"})
        await client.subscribe("item", "chatMessage", "g", "a")
        await http.put("/g/a", json={"text": "one"})
        await client.until(lambda told: told.get("changed") == {"id": "a", "text": "one"})
        await client.subscribe("group", "chatMessage", "g")
        assert {item["id"] for item in await client.changed("group")} == {"a", "other"}


async def test_an_odd_item_hurts_no_other(server: Server, client_folder: Path) -> None:
    """Stored by SQL before there were limits, with 5,000 digits and 3,000 levels: it is what JavaScript makes of it."""
    odd = f'{{"text": "odd", "n": [{"7" * 5000}, {"[" * 3000 + "]" * 3000}]}}'
    sql = await asyncpg.connect(server.database_url)
    async with motia_client(client_folder, server.ws_url) as client, server.http() as http:
        await lift_limits(sql)
        await sql.execute("insert into streams.chat_message values ('g', 'odd', $1::text::jsonb)", odd)
        await client.subscribe("group", "chatMessage", "g")
        (item,) = await client.changed("group")
        assert (item["id"], item["n"][0]) == ("odd", None)  # Infinity, as its JSON.stringify tells us
        await http.put("/g/a", json={"text": "usual"})
        assert {"id": "a", "text": "usual"} in await client.changed("group")
    await sql.close()


async def test_an_unknown_stream_is_denied(server: Server, client_folder: Path) -> None:
    """A join of a stream that is not declared gets the error event that the client knows."""
    async with motia_client(client_folder, server.ws_url) as client:
        await client.subscribe("secret", "secrets", "g", events=["error"])
        denied = await client.until(lambda told: told.get("event") == "error")
        assert denied["data"] == {"code": "STREAM_ACCESS_DENIED", "message": "Access denied"}


async def test_a_client_that_sends_a_token_connects(server: Server, client_folder: Path) -> None:
    """`Authorization, <token>` as subprotocols is answered as the client wants it."""
    async with motia_client(client_folder, server.ws_url, "Authorization", "a-token") as client:
        await client.subscribe("group", "chatMessage", "g")
        assert await client.changed("group") == []


async def test_who_may_is_told_to_the_client_in_its_own_words(start_server: Any, client_folder: Path) -> None:
    """By its token: a join that is let in, one that is denied, and no connection with a wrong one."""
    server = await start_server(steps_dir=ACCESS_STEPS, TIDELOG_LOG_ACCESS="true")
    sql = await asyncpg.connect(server.database_url)
    await sql.execute("create table member (grp text, subject text)")
    await sql.execute("insert into streams.secret (group_id, id, data) values ('ada', 'a', '{}')")
    await sql.close()
    async with motia_client(client_folder, server.ws_url, "Authorization", "token-of-ada") as client:
        await client.subscribe("hers", "secret", "ada")
        assert await client.changed("hers") == [{"id": "a"}]
        await client.subscribe("eves", "secret", "eve", events=["error"])
        denied = await client.until(lambda told: told.get("event") == "error")
        assert (denied["name"], denied["data"]) == ("eves", DENIED)

    async def open_with_a_wrong_token() -> None:
        async with motia_client(client_folder, server.ws_url, "Authorization", "token-of-nobody"):
            pass

    opening = asyncio.create_task(open_with_a_wrong_token())
    await eventually(lambda: [one for one in server.records("tidelog.access") if one.get("status") == 401])
    opening.cancel()  # the client tries again, or has given up
    (outcome,) = await asyncio.gather(opening, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError | AssertionError)


@pytest.mark.slow
async def test_quick_sets_of_one_item_end_on_the_last(server: Server, client_folder: Path) -> None:
    """200 commits of one item in a row: both subscriptions end on the last one, every time."""
    async with server.http() as http:
        for run in range(RUNS):
            group = f"run-{run}"
            async with motia_client(client_folder, server.ws_url) as client:
                await client.subscribe("group", "chatMessage", group)
                await client.subscribe("item", "chatMessage", group, "answer")
                await client.changed("item")
                assert (await http.post(f"/{group}/many")).status_code == 200
                last = {"id": "answer", "text": "199"}
                # The marker comes behind all that went before on the same connection.
                await http.put(f"/{group}/marker", json={"text": "end"})
                await client.until(lambda told: told.get("name") == "group" and len(told.get("changed") or ()) == 2)
                assert await client.state("item") == last
                assert last in await client.state("group")


@pytest.mark.slow
async def test_a_client_that_was_open_while_the_database_was_wiped_shows_what_is_there(
    databases: Databases, template_database: str, start_server: StartServer, server: Server, client_folder: Path
) -> None:
    """It comes back by itself, forgets the items that are gone, and takes the new history's, also of the same names."""
    async with motia_client(client_folder, server.ws_url) as client:
        await client.subscribe("group", "chatMessage", "g")
        await client.subscribe("item", "chatMessage", "g", "a")
        async with server.http() as http:
            for text in ("created", "updated"):  # the client notes the time of updates, not of creates
                await http.put("/g/a", json={"text": text})
            await client.until(lambda told: told.get("changed") == [{"id": "a", "text": "updated"}])
        await server.stop()
        await databases.replace(server.database_url, await databases.create(template=template_database))
        again = await start_server(steps_dir=server.steps_dir, port=server.port)
        await client.until(lambda told: told.get("name") == "group" and told.get("changed") == [])
        async with again.http() as http:
            await http.put("/g/a", json={"text": "of the new one"})
        new = {"id": "a", "text": "of the new one"}
        await client.until(lambda told: told.get("name") == "group" and told.get("changed") == [new])
        assert await client.state("item") == new
