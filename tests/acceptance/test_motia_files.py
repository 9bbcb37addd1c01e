"""Motia's Python, of both generations: a file for each form of it runs unchanged, or is left out with a reason.

The files are in motia_files/; see the table in app/tidelog/runtime/README.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tidelog.outside import OpenStreams
from tidelog.runtime.discovery import STEP_SUFFIX, STREAM_SUFFIX, discover

FILES = Path(__file__).parent / "motia_files"
FILES_MIN = 40  # what the project promises

LEFT_OUT = {
    "channel_step.py": "motia.MotiaHttpArgs does not exist in Tidelog: requests and answers piece by piece",
    "engine_step.py": "motia.get_instance does not exist in Tidelog: there is no engine",
    "match_step.py": "line 7: context.match does not exist in Tidelog",
    "two_ways_step.py": 'line 5: config has "type" and "triggers"',
    "webhook_step.py": "a trigger is http, queue, cron, stream or state, not {'type': 'webhook'",
    "yearly_step.py": """config["cron"] is '0 0 0 1 1 * 2030', which is no time""",
}


@pytest.fixture
def tidelog_steps_dir() -> Path:
    return FILES / "steps"


def test_each_of_motias_forms_loads() -> None:
    """Streams and steps of 0.17 and of 1.0, with Motia's own package nowhere."""
    found = discover(FILES / "steps")
    assert (found.broken, found.skipped) == ((), ())
    files = [
        file
        for folder in ("steps", "src")
        for file in (FILES / folder).rglob("*.py")
        if file.name.endswith((STEP_SUFFIX, STREAM_SUFFIX))
    ]
    declaring = {one.file for one in (*found.streams.values(), *found.steps)}
    assert declaring == set(files)
    assert len(files) >= FILES_MIN


def test_what_cannot_be_served_is_left_out_and_says_why() -> None:
    """At the start, by its line: never half-served."""
    found = discover(FILES / "left_out")
    assert found.steps == ()
    causes = {one.path.name: one.cause for one in found.broken}
    assert causes.keys() == LEFT_OUT.keys()
    for name, cause in LEFT_OUT.items():
        assert cause in causes[name]


async def test_files_of_motia_0_17_do_what_they_say(
    client: httpx.AsyncClient, streams: OpenStreams, settled: Callable[..., Any], recorder: Callable[..., Any]
) -> None:
    """Requests, middleware, imports, items, state, events, the clock, and changes of a stream."""
    await _notes(client, recorder)
    await _other_requests(client, streams)
    for order in ({"id": "o1", "amount": 50}, {"id": "o2", "amount": 500}):
        answer = await client.post("/orders", json=order)
        assert answer.status_code == 202
    await settled()
    assert {item["id"] for item in await streams.seen.get_group("pack")} == {"o1", "o2"}
    assert (await streams.seen.get("pack", "o2"))["trace"] == answer.json()["trace"]
    assert {item["id"] for item in await streams.seen.get_group("ship")} == {"o1", "o2"}
    assert {item["id"]: item["events"] for item in await streams.seen.get_group("audit")} == {"o1": 1, "o2": 2}
    assert [item["amount"] for item in await streams.seen.get_group("plain-event")] == [500]
    assert (await client.get("/orders")).json() == {"amounts": [50, 500]}
    assert [item["text"] for item in await streams.seen.get_group("follow")] == ["milk"]
    async with recorder("seen", "ticked") as seen:
        await seen.until(lambda seen: seen.items)


async def test_files_of_motia_1_0_do_what_they_say(
    client: httpx.AsyncClient, streams: OpenStreams, settled: Callable[..., Any], recorder: Callable[..., Any]
) -> None:
    """Triggers of every type, several of one step, conditions, and streams, state and topics that are imported."""
    await _requests_of_1_0(client)
    answer = await client.post("/v1/dict", json={"a": 1})
    assert (answer.status_code, answer.json()) == (200, {"a": 1})
    for number in (1, 2):
        assert (await client.post("/v1/match", json={"n": number})).status_code == 202
    changed = await client.put("/v1/status/ada", json={"statuses": ["away", "here"]})
    assert changed.json()["answers"] == [
        {"old_value": None, "new_value": {"status": "away"}},
        {"old_value": {"status": "away"}, "new_value": {"status": "here"}},
        {"old_value": None, "new_value": {"changes": 2}},
    ]
    assert {"counts", "users"} & {*changed.json()["groups"]} == {"counts"}  # a group is there while it has a value
    await settled()
    await settled()  # what a stream's step has enqueued
    assert await streams.seen.get_group("on-status") == [
        {"id": f"ada: {change}", "type": "state"} for change in ("None to away", "away to here", "here to None")
    ]
    assert await streams.seen.get("counted", "ada") == {"id": "ada", "changes": 2}
    assert (await streams.seen.get("dict", "queue"))["a"] == 1
    assert {item["id"]: item["by"] for item in await streams.seen.get_group("room-made")} == {
        "r1": "room.made",
        "plain": "room.made",
    }
    assert {item["id"]: item["index"] for item in await streams.seen.get_group("two-topics")} == {
        "room.made:0": 0,
        "match.said:2": 1,
    }
    assert {item["id"] for item in await streams.seen.get_group("match")} >= {"queue-1", "queue-2"}
    assert {item["id"] for item in await streams.seen.get_group("default")} == {"1", "2"}
    assert {item["id"] for item in await streams.seen.get_group("chained")} == {"1", "2"}
    assert (await client.get("/v1/told")).json() == {"told": [1, 2]}
    assert await streams.seen.get_group("room-seen") == [{"id": "r2", "stream": "room", "topic": "trees"}]
    for group in ("match", "together"):
        async with recorder("seen", group) as seen:
            await seen.until(lambda seen: "cron" in seen.items)


async def _notes(client: httpx.AsyncClient, recorder: Callable[..., Any]) -> None:
    async with recorder("note", "ada") as seen:
        added = await client.post("/notes/ada", json={"id": "n1", "text": "milk"})
        assert (added.status_code, added.json()) == (200, {"id": "n1", "text": "milk"})
        assert (await client.post("/notes/ada", json={"id": "n2"})).status_code == 400
        changed = await client.put("/notes/ada/n1", json={"done": True})
        assert changed.json() == {"id": "n1", "text": "milk", "done": True}
        assert (await client.get("/notes/ada")).json() == {"notes": [changed.json()]}
        assert (await client.post("/tell/ada", json={})).status_code == 200
        assert (await client.delete("/notes/ada/n1")).status_code == 204
        assert (await client.put("/notes/ada/n1", json={})).status_code == 404
        await seen.until(lambda seen: len(seen.changes) == 3)
        assert [change.op for change in seen.changes] == ["create", "update", "delete"]
        assert [event.type for event in seen.events] == ["typing"]


async def _other_requests(client: httpx.AsyncClient, streams: OpenStreams) -> None:
    found = await client.get("/search?q=tea&tag=a&tag=b", headers={"x-agent": "test"})
    assert (found.json(), found.headers["x-found"]) == ({"q": "tea", "tags": ["a", "b"], "agent": "test"}, "1")
    page = await client.get("/page")
    assert (page.text, page.headers["content-type"]) == ("<h1>Notes</h1>", "text/html")
    assert (await client.post("/plain", json={"say": "yes"})).json() == {"stored": "yes"}
    assert (await client.get("/alone?a=1")).json() == {"method": "GET", "query": {"a": "1"}}
    assert (await client.get("/greet/ada")).json() == {"said": "hello ada"}
    assert (await client.get("/greeting")).json() == {"said": "hello you"}
    assert (await client.get("/greeting/bob")).json() == {"said": "hello bob"}
    assert (await client.get("/guarded")).status_code == 401
    guarded = await client.get("/guarded", headers={"x-key": "open"})
    assert (guarded.json(), guarded.headers["x-counted"]) == ({"seen": 1}, "1")
    assert (await client.post("/unawaited", json={})).status_code == 200
    assert (await streams.seen.get("unawaited", "state"))["status"] == "completed"
    assert await streams.seen.count("unawaited") == 4
    assert [(await client.post("/count", json={})).json()["n"] for _ in range(2)] == [2, 4]


async def _requests_of_1_0(client: httpx.AsyncClient) -> None:
    single = await client.get("/v1/single/7?q=tea", headers={"x-key": "k"})
    assert (single.json(), single.headers["x-single"]) == ({"id": "7", "q": "tea", "key": "k"}, "1")
    several = [await client.request(*one) for one in (("GET", "/v1/several"), ("POST", "/v1/several"))]
    several.append(await client.put("/v1/others/1", json={}))
    assert [one.json() for one in several] == [
        {"method": method, "index": index} for index, method in enumerate(("GET", "POST", "PUT"))
    ]
    made = await client.post("/v1/rooms", json={"id": "r1"})
    assert (made.status_code, made.json()) == (201, {"id": "r1", "topic": "any"})
    assert (await client.post("/v1/rooms", json={})).status_code == 400
    first, second = [await client.put("/v1/rooms/r2", json={"topic": topic}) for topic in ("trees", "birds")]
    trees, birds = {"id": "r2", "topic": "trees"}, {"id": "r2", "topic": "birds"}
    assert first.json() == {"old_value": None, "new_value": trees}
    assert second.json() == {"old_value": trees, "new_value": birds}
    plain = (await client.post("/v1/plain", json={})).json()
    assert plain["second"] == {"old_value": {"id": "one", "n": 1}, "new_value": {"id": "one", "n": 5}}
    assert (plain["kept"], plain["items"], plain["groups"]) == (5, 1, ["plain"])
    assert (await client.get("/v1/checked")).status_code == 401
    assert (await client.get("/v1/checked", headers={"x-key": "open"})).json() == {"checked": "yes"}
    assert (await client.get("/v1/default?q=a")).json() == {"q": "a"}
    not_met = await client.get("/v1/condition")
    assert (not_met.status_code, not_met.json()["error"]["code"]) == (422, "condition_not_met")
    assert (await client.get("/v1/condition", headers={"x-verified": "yes"})).json() == {"verified": True}
    for path in ("definition", "builder", "chained", "together"):
        assert (await client.get(f"/v1/{path}")).json() == {"by": "http"}
