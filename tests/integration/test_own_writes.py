"""Read your own writes: every step's answer names its transaction, and whoever waits for that finds what it wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from litestar import Litestar
from websockets.asyncio.client import connect

from tests.integration.sequencer_fixtures import WAIT_SECONDS
from tests.integration.test_reads import ITEMS, NOTE, SET, STOP_NUMBERING, ns, write
from tests.peer import Peer
from tidelog import TidelogConfig, TidelogPlugin
from tidelog.client import Client, Commit, Live
from tidelog.errors import TransactionNotPassedError, WaitTimedOutError
from tidelog.testing import ServedApp
from tidelog.testing.application import plugins_of

pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")

HEADER = "tidelog-transaction"
INSERT = "insert into streams.note (group_id, id, data) values ('g', 'sql', '{}')"
STEP = """
from sqlalchemy import text

config = {{"type": "api", "name": "{name}", "method": "POST", "path": "/{name}", "emits": []}}
config["transaction"] = {transaction}

async def handler(req, context):
    note = context.streams.note
    {body}
    return {{"status": 200, "body": {{}}}}
"""
STEPS = {
    "set": 'await note.set("g", "a", {"n": 1})',
    "set_unawaited": 'note.set("g", "a", {"n": 1})',
    "set_the_same": 'await note.set("g", "a", {"n": 1})',
    "delete": 'await note.delete("g", "a")',
    "send": 'await note.send({"groupId": "g"}, {"type": "x", "data": {}})',
    "sql": f"await context.db.execute(text({INSERT!r}))",
    "sql_of_ones_own": 'await context.db.execute(text("select pg_current_xact_id()"))',
    "nothing": "pass",
    "get": 'await note.get("g", "a")',
    "look": 'await context.db.execute(text("select 1"))',
    "fail": 'await note.set("g", "f", {}); raise RuntimeError("the author\'s fault")',
}
ALONE = {"set_alone": STEPS["set"], "sql_alone": STEPS["sql"].replace("sql'", "alone'")}


@pytest.fixture
def tidelog_app(tmp_path: Path) -> Callable[[str], Litestar]:
    for name, body in {**STEPS, **ALONE}.items():
        text = STEP.format(name=name, body=body, transaction=name not in ALONE)
        (tmp_path / f"{name}_step.py").write_text(text)

    def make(database_url: str) -> Litestar:
        config = TidelogConfig(database_url=database_url, streams=[NOTE], steps_dir=tmp_path, path="/live")
        return Litestar(plugins=[TidelogPlugin(config)], logging_config=None)

    return make


@pytest.fixture
async def sql(tidelog_database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(tidelog_database_url)
    yield connection
    await connection.close()


async def run(client: httpx.AsyncClient, name: str) -> str | None:
    answer = await client.post(f"/live/{name}", json={})
    assert answer.status_code == (500 if name == "fail" else 200), answer.text
    transaction: str | None = answer.headers.get(HEADER)
    return transaction


async def test_every_step_s_answer_names_its_transaction(
    client: httpx.AsyncClient, sql: asyncpg.Connection[Any]
) -> None:
    """One that wrote, in whatever way, that of its changes; one that did not, a position; one that failed, nothing."""
    for name in ("set", "delete", "set_unawaited", "send", "sql", "set_alone"):
        transaction = await run(client, name)
        assert transaction is not None
        known = "select xid::text from streams.change union select xid::text from streams.event"
        assert transaction in {row[0] for row in await sql.fetch(known)} or name == "set_alone", name
    for name in ("set_the_same", "sql_of_ones_own"):
        assert (await run(client, name) or "").isdecimal(), name
    for name in ("nothing", "get", "look"):
        assert (await run(client, name) or "").startswith("position:"), name
    assert await run(client, "fail") is None
    assert (
        await run(client, "sql_alone") is None
    )  # its statements have committed by themselves: nobody has told their ids


@pytest.mark.parametrize("name", [*STEPS, "set_alone"])
async def test_a_read_that_waits_for_it_has_it(client: httpx.AsyncClient, name: str) -> None:
    """At once, and also if the step changed nothing."""
    transaction = await run(client, name)
    if name == "fail":
        return
    answer = await client.get(ITEMS, params={"group": "g", "wait_for": transaction})
    assert answer.status_code == 200, answer.text
    written = {"set": ["a"], "set_unawaited": ["a"], "set_the_same": ["a"], "set_alone": ["a"], "sql": ["sql"]}
    assert [item["id"] for item in answer.json()["items"]] == written.get(name, [])


async def test_a_client_waits_for_it(tidelog_served: ServedApp, client: httpx.AsyncClient) -> None:
    """Until its live subscriptions have what the step changed; or until there is nothing to wait for."""
    async with Client(f"{tidelog_served.ws_url}/live") as subscriber, subscriber.subscribe("note", "g") as seen:
        messages = aiter(seen)
        while not isinstance(await anext(messages), Live):
            pass
        for name in ("set", "nothing", "set_the_same", "delete"):
            transaction = await run(client, name)
            assert transaction is not None
            before = seen.waiting
            position = await subscriber.wait_for(transaction)
            assert seen.position is not None and position >= 0
            if name in ("set", "delete"):
                assert seen.waiting > before or before
                message = await anext(messages)
                assert isinstance(message, Commit) and message.position == position
            assert seen.waiting == 0
        for wrong in ("9999999999", "yesterday", "position:x"):
            with pytest.raises(TransactionNotPassedError) as refused:
                await subscriber.wait_for(wrong)
            assert refused.value.code == "query_invalid"


async def test_who_waits_is_not_told_before(
    tidelog_served: ServedApp, client: httpx.AsyncClient, sql: asyncpg.Connection[Any], tidelog_database_url: str
) -> None:
    """While nothing gets a number; and many who wait are bounded."""
    stopper = await asyncpg.connect(tidelog_database_url)
    async with Client(f"{tidelog_served.ws_url}/live") as subscriber:
        async with stopper.transaction():
            await stopper.execute(STOP_NUMBERING)
            mine = await write(sql, ("g", "a", 1))
            waiting = [asyncio.create_task(subscriber.wait_for(mine)) for _ in range(3)]
            reading = asyncio.create_task(client.get(ITEMS, params={"group": "g", "wait_for": mine}))
            with pytest.raises(WaitTimedOutError):
                await subscriber.wait_for(mine, timeout_seconds=0.05)
            assert not any(task.done() for task in (*waiting, reading))
        async with asyncio.timeout(WAIT_SECONDS):
            assert len({await task for task in waiting}) == 1
            assert ns((await reading).json()) == {"a": 1}
    await stopper.close()
    with pytest.raises(RuntimeError, match="not connected"):
        await subscriber.wait_for(mine)


async def test_a_wait_that_takes_too_long_is_told(
    tidelog_served: ServedApp,
    client: httpx.AsyncClient,
    sql: asyncpg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a status of its own, and it may be asked for again."""
    [plugin] = plugins_of(tidelog_served.app)
    monkeypatch.setattr(plugin.tidelog._waiting, "_wait_seconds", 0.05)
    async with sql.transaction():
        mine = await sql.fetchval("select pg_current_xact_id()")
        await sql.execute(SET, "g", "a", 1)
        answer = await client.get(ITEMS, params={"group": "g", "wait_for": str(mine)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "wait_timed_out")


@pytest.mark.parametrize("ahead", [2**32, 2**32 + 1, 2**32 + 2, 2**48 + 1, 2**63 - 1, 99_999_999_999])
async def test_an_id_that_was_never_given_out_is_refused(client: httpx.AsyncClient, ahead: int) -> None:
    """Also those of which Postgres itself says that they are at work."""
    answer = await client.get(ITEMS, params={"group": "g", "wait_for": str(ahead)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "query_invalid")


async def test_a_commit_s_message_has_its_transaction(tidelog_served: ServedApp, client: httpx.AsyncClient) -> None:
    """Live, and read from the log by one who comes back; as the history has it."""
    seen = []
    async with connect(f"{tidelog_served.ws_url}/live", subprotocols=["tidelog.v1"], proxy=None) as socket:  # type: ignore[list-item]
        peer = Peer(socket)
        await peer.subscribe("live", "g", stream="note")
        epoch = (await peer.until("live"))[-1]["epoch"]
        transaction = await run(client, "set")
        seen.append((await peer.until("commit"))[-1])
        await peer.subscribe("past", "g", stream="note", since=0, epoch=epoch)
        seen.append((await peer.until("commit"))[-1])
    history = (await client.get("/live/streams/note/history", params={"group": "g"})).json()["changes"]
    assert [one["transaction"] for one in (*seen, *history)] == [transaction] * 3
