"""The Python client, against a server that sends what the test says: slow consumers, endings, errors, `watch`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.integration.client.scripted_server import (
    WAIT_SECONDS,
    Connection,
    ScriptedServer,
    change,
    commit,
    event,
    live,
    reset,
    snapshot,
    take,
)
from tidelog.client import Client, Commit, Live, Message, Subscription
from tidelog.errors import ServerNotUnderstoodError, SubscriptionRefusedError
from tidelog.json_text import write

FRAMES = 500
TEXT = "x" * 100_000  # 500 of it are more than all buffers on the way


async def until_waiting(subscription: Subscription, count: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while subscription.waiting < count:  # noqa: ASYNC110 - it tells when it has one, not how many
            await asyncio.sleep(0)


@pytest.mark.parametrize("limit", ["MESSAGES_MAX", "BYTES_MAX"])
async def test_a_slow_consumer_slows_the_server_and_takes_no_memory(
    client: Client,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
) -> None:
    """At most so many messages, or bytes, wait for it; then the connection is not read. Nothing is lost."""
    monkeypatch.setattr(
        "tidelog.client.subscription." + limit, {"MESSAGES_MAX": 10, "BYTES_MAX": 10 * len(TEXT)}[limit]
    )
    async with client.subscribe("chatMessage", "general") as subscription:
        request = await connection.accept(live(0))
        frames = (commit(number, change("a", text=TEXT), to=[request["id"]]) for number in range(1, FRAMES + 1))
        sending = asyncio.create_task(connection.send(*frames))
        await until_waiting(subscription, 10)
        assert not sending.done()
        positions, waited = [], []
        async for message in subscription:
            assert not isinstance(message, Commit) or len(message.changes) == 1
            positions.append(message.position)  # type: ignore[union-attr]
            for _ in range(20):  # turns in which the connection could be read
                await asyncio.sleep(0)
            waited.append(subscription.waiting)
            if positions[-1] == FRAMES:
                break
        assert positions == list(range(FRAMES + 1))
        assert max(waited) <= 11  # Live is a few bytes
        await sending


async def test_one_that_ends_does_not_hold_up_the_others(
    client: Client,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A subscription that nobody reads stops the connection only as long as it lasts."""
    monkeypatch.setattr("tidelog.client.subscription.MESSAGES_MAX", 2)
    async with client.subscribe("chatMessage", "random") as reading:
        async with client.subscribe("chatMessage", "general") as abandoned:
            other, stuck = await connection.accept(live(0)), await connection.accept(live(0))
            await connection.send(*(event(1, to=[stuck["id"]]) for _ in range(5)), event(1, to=[other["id"]]))
            await until_waiting(abandoned, 2)
            await take(reading, 1)
        await take(reading, 1)


async def test_leaving_the_loop_unsubscribes(client: Client, connection: Connection) -> None:
    """By `break`, by an exception, and by cancellation; frames that are still on their way then hurt nobody."""

    async def leave(how: str, received: asyncio.Event) -> None:
        async for message in client.subscribe("chatMessage", how):
            received.set()
            if how == "break":
                break
            if how == "exception":
                raise LookupError(message)

    for how in ("break", "exception", "cancel"):
        received = asyncio.Event()
        leaving = asyncio.create_task(leave(how, received))
        request = await connection.accept(live(7))
        await received.wait()
        if how == "cancel":
            leaving.cancel()
        assert await connection.receive() == {"type": "unsubscribe", "id": request["id"]}
        await asyncio.wait([leaving])
        assert leaving.cancelled() == (how == "cancel")
        assert how == "cancel" or (leaving.exception() is not None) == (how == "exception")
        await connection.send(commit(8, to=[request["id"]]))
    async with client.subscribe("chatMessage", "general") as subscription:
        await connection.accept(live(9))
        assert [type(message) for message in await take(subscription, 1)] == [Live]


async def test_a_subscription_is_used_once(client: Client, connection: Connection) -> None:
    """A second loop over one that ended would wait for ever, or miss what came between."""
    subscription = client.subscribe("chatMessage", "general")
    async with subscription:
        await connection.accept(live(7))
        await take(subscription, 1)
    with pytest.raises(RuntimeError, match="used once"):
        await take(subscription, 1)


async def test_subscriptions_end_with_the_client(server: ScriptedServer) -> None:
    """Loops in other tasks end, without an error; a new one is told why it can't begin."""
    messages: list[Message] = []

    async def follow(client: Client) -> None:
        async for message in client.subscribe("chatMessage", "general"):
            messages.append(message)

    async with Client(server.url, proxy=None) as client:
        following = asyncio.create_task(follow(client))
        connection = await server.connection()
        await connection.accept(live(7))
        async with client.subscribe("chatMessage", "random") as subscription:
            await connection.accept(live(7))
            await take(subscription, 1)
    async with asyncio.timeout(WAIT_SECONDS):
        await following
    assert [type(message) for message in messages] == [Live]
    with pytest.raises(RuntimeError, match="async with"):
        await take(client.subscribe("chatMessage", "general"), 1)


async def test_an_error_ends_the_subscription_that_it_names(
    client: Client,
    connection: Connection,
) -> None:
    """With the server's code; the others go on, and an error about the connection ends none."""
    async with client.subscribe("nope", "general") as refused, client.subscribe("chatMessage", "general") as other:
        first, second = await connection.receive(), await connection.receive()
        await connection.send(
            {"type": "error", "code": "message_invalid", "message": "what?"},
            {"type": "error", "code": "subscription_exists", "message": "twice", "subscription": second["id"]},
            {"type": "error", "code": "stream_unknown", "message": "no such stream", "subscription": first["id"]},
            {"type": "of a newer server"},
            live(7) | {"subscription": second["id"]},
        )
        with pytest.raises(SubscriptionRefusedError, match="nope/general: no such stream") as raised:
            await take(refused, 1)
        assert raised.value.code == "stream_unknown"
        await take(other, 1)


@pytest.mark.parametrize("frame", [{}, {"type": "commit"}, {"type": "live", "subscription": "s1"}, []])
async def test_a_server_that_is_not_understood_is_left(
    client: Client,
    connection: Connection,
    frame: Any,
) -> None:
    """A frame that breaks the protocol ends the client with an error that shows it, not with silence."""
    async with client.subscribe("chatMessage", "general") as subscription:
        await connection.receive()
        await connection.send(frame)
        with pytest.raises(ServerNotUnderstoodError, match=r"not tidelog\.v1"):
            await take(subscription, 1)


async def test_watch_keeps_the_state_of_a_group(
    server: ScriptedServer,
    client: Client,
    connection: Connection,
) -> None:
    """From a paged snapshot through changes, a lost connection and a reset; never a state between two commits."""
    states: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()

    async def watch() -> None:
        async for items in client.watch("chatMessage", "general"):
            states.put_nowait({id: item["text"] for id, item in items.items()})

    async def state() -> Mapping[str, Any]:
        async with asyncio.timeout(WAIT_SECONDS):
            return await states.get()

    watching = asyncio.create_task(watch())
    request = await connection.accept(snapshot(7, "a", more=True), snapshot(7, "b"), live(7))
    assert await state() == {"a": "a at 7", "b": "b at 7"}
    await connection.send(
        commit(8, change("c", "create", text="new"), change("a", "delete"), to=[request["id"]]),
        event(8, to=[request["id"]]),
    )
    assert await state() == {"b": "b at 7", "c": "new"}
    connection.lose()
    connection = await server.connection()
    await connection.accept(commit(9, change("b", text="edited")), reset("too_large", 10), snapshot(10, "b", more=True))
    assert await state() == {"b": "edited", "c": "new"}
    connection.lose()
    connection = await server.connection()
    await connection.accept(snapshot(11, "d"))
    assert await state() == {"d": "d at 11"}
    watching.cancel()
    await asyncio.wait([watching])
    assert (await connection.receive())["type"] == "unsubscribe"


async def test_a_slow_watcher_gets_the_newest_state(client: Client, connection: Connection) -> None:
    """It is not led through all the states that it missed."""
    async with asyncio.timeout(WAIT_SECONDS):
        watching = client.watch("chatMessage", "general")
        first = asyncio.ensure_future(anext(watching))
        request = await connection.accept(snapshot(0, "a"))
        await first
        async with client.subscribe("chatMessage", "random") as other:
            barrier = await connection.accept()
            await connection.send(
                *(commit(number, change("a", text=str(number)), to=[request["id"]]) for number in range(1, 101)),
                event(100, to=[barrier["id"]]),
            )
            await take(other, 1)
        items = await anext(watching)
        assert items["a"]["text"] == "100"
        await watching.aclose()


async def test_an_odd_item_ends_no_client(client: Client, connection: Connection) -> None:
    """Frames have what Postgres wrote: integers of any length, any depth. The other items come as ever."""
    digits, deep = "7" * 131_072, "[" * 3000 + "]" * 3000
    async with client.subscribe("chatMessage", "general") as subscription:
        request = await connection.accept(live(0))
        frame = commit(1, change("odd", text="?"), change("usual"), to=[request["id"]])
        await connection.socket.send(json.dumps(frame).replace('"?"', f"[{digits}, {deep}, 1{'0' * 400}.5]"))
        _, message = await take(subscription, 2)
    assert isinstance(message, Commit)
    odd, usual = message.changes
    assert write(odd.data["text"][0], repr) == digits and write(odd.data["text"][1], repr) == deep
    assert (odd.data["text"][2], usual.id) == (10**400, "usual")
