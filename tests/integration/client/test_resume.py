"""The Python client, against a server that sends what the test says: messages, resuming, resets."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import pytest

import tidelog.client
from tests.harness import ROOT, eventually, free_port
from tests.integration.client.scripted_server import (
    AT,
    EPOCH,
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
from tidelog.client import (
    Change,
    Client,
    Commit,
    Event,
    Item,
    Live,
    Reset,
    ServerRefusedError,
    ServerUnreachableError,
    Snapshot,
)

COME_BACK = (1000, 1001, 1011, 1012, 1013)
GIVE_UP = (1008, 1009, 4400, 4401, 4403)


async def test_a_subscription_tells_what_is_there_and_then_what_happens(client: Client, connection: Connection) -> None:
    """Pages of a snapshot, Live, commits with their changes and time, and events."""
    async with client.subscribe("chatMessage", "general") as subscription:
        request = await connection.accept(
            snapshot(7, "a", "b", more=True),
            snapshot(7, "c"),
            live(8),
            commit(9, change("a", "delete", text="gone")),
            event(9, id="b"),
        )
        assert request.keys() - {"id"} == {"type", "stream", "group", "item"}
        assert (request["stream"], request["group"], request["item"]) == ("chatMessage", "general", None)
        items = tuple(Item(id, 1, {"id": id, "text": f"{id} at 7"}) for id in "abc")
        assert await take(subscription, 5) == [
            Snapshot(7, items[:2], True, EPOCH),
            Snapshot(7, items[2:], False, EPOCH),
            Live(8, EPOCH),
            Commit(
                9,
                datetime(2026, 1, 31, 12, tzinfo=UTC),
                (Change("delete", "chatMessage", "general", "a", 2, {"id": "a", "text": "gone"}),),
            ),
            Event(9, "typing", {"author": "ada"}, "b"),
        ]


async def test_each_subscription_gets_its_part_of_a_commit(client: Client, connection: Connection) -> None:
    """One frame holds the whole commit; a group and an item of another group each see their own changes."""
    async with (
        client.subscribe("chatMessage", "general") as group,
        client.subscribe("chatMessage", "random", item="x") as item,
    ):
        first, second = await connection.accept(), await connection.accept()
        assert second["item"] == "x"
        await connection.send(
            commit(1, change("a"), change("x"), change("x", group="random"), change("y", group="random"))
            | {"subscriptions": [first["id"], second["id"]]}
        )
        (of_group,), (of_item,) = await take(group, 1), await take(item, 1)
        assert isinstance(of_group, Commit) and isinstance(of_item, Commit)
        assert [(one.group, one.id) for one in of_group.changes] == [("general", "a"), ("general", "x")]
        assert [(one.group, one.id) for one in of_item.changes] == [("random", "x")]


@pytest.mark.parametrize("code", [*COME_BACK, None])
async def test_it_comes_back_and_resumes(
    server: ScriptedServer, client: Client, connection: Connection, code: int | None
) -> None:
    """After every code that allows it, and after a loss without one: with the position and epoch that it reached."""
    async with client.subscribe("chatMessage", "general") as subscription:
        await connection.accept(snapshot(7), live(7), commit(9))
        await take(subscription, 3)
        if code is None:
            connection.lose()
        else:
            await connection.close(code)
        connection = await server.connection()
        request = await connection.accept(commit(10), live(12))
        assert (request["since"], request["epoch"]) == (9, EPOCH)
        assert [message.position for message in await take(subscription, 2)] == [10, 12]  # type: ignore[union-attr]


async def test_a_restarting_server_is_found_again_at_once(
    server: ScriptedServer, client: Client, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 1012 no pause is made; here one would take hours."""
    monkeypatch.setattr("tidelog.client.connection.DELAY_FIRST_SECONDS", 1_000_000.0)
    async with client.subscribe("chatMessage", "general"):
        for _ in range(3):
            await connection.accept(live(7))
            await connection.close(1012)
            connection = await server.connection()


@pytest.mark.parametrize("code", GIVE_UP)
async def test_it_gives_up_when_it_is_told_to(client: Client, connection: Connection, code: int) -> None:
    """What has come is handed out, then every subscription raises, the next ones, too."""
    async with client.subscribe("chatMessage", "general") as subscription:
        await connection.accept(live(7))
        await connection.close(code)
        with pytest.raises(ServerRefusedError, match=f"code {code}: as the test says") as raised:
            await take(subscription, 2)
        assert raised.value.close_code == code
        with pytest.raises(ServerRefusedError):
            await take(client.subscribe("chatMessage", "random"), 1)


async def test_a_snapshot_that_was_broken_off_begins_anew(
    server: ScriptedServer, client: Client, connection: Connection
) -> None:
    """There is no position to resume from between two pages: a Reset tells to forget the first ones."""
    async with client.subscribe("chatMessage", "general") as subscription:
        await connection.accept(snapshot(7, "a", more=True))
        await take(subscription, 1)
        connection.lose()
        connection = await server.connection()
        request = await connection.accept(snapshot(8, "b"))
        assert "since" not in request and "epoch" not in request
        again, page = await take(subscription, 2)
        assert again == Reset("connection_lost")
        assert isinstance(page, Snapshot) and [item.id for item in page.items] == ["b"]


async def test_what_was_seen_is_not_repeated(server: ScriptedServer, client: Client, connection: Connection) -> None:
    """Commits up to the snapshot, up to the position resumed from, and second copies are dropped."""
    async with client.subscribe("chatMessage", "general") as subscription:
        await connection.accept(
            snapshot(7), commit(6), commit(7), live(7), commit(8), commit(8), event(8), event(7), commit(9)
        )
        assert [type(message) for message in await take(subscription, 5)] == [Snapshot, Live, Commit, Event, Commit]
        connection.lose()
        connection = await server.connection()
        await connection.accept(commit(8), commit(9), commit(10), live(10))
        assert [message.position for message in await take(subscription, 2)] == [10, 10]  # type: ignore[union-attr]


@pytest.mark.parametrize("reason", ["too_old", "epoch", "ahead", "too_large"])
async def test_a_reset_starts_over(server: ScriptedServer, client: Client, connection: Connection, reason: str) -> None:
    """Its snapshot may be of another epoch and at a lower position; resuming goes on from there."""
    async with client.subscribe("chatMessage", "general", since=50, epoch=EPOCH) as subscription:
        request = await connection.accept(reset(reason, 3, "new"), snapshot(3, "a", epoch="new"), live(3, "new"))
        assert (request["since"], request["epoch"]) == (50, EPOCH)
        again, page, _ = await take(subscription, 3)
        assert again == Reset(reason)
        assert isinstance(page, Snapshot) and (page.position, page.epoch) == (3, "new")
        await connection.send(commit(4, to=[request["id"]]))
        (after,) = await take(subscription, 1)
        assert isinstance(after, Commit)
        connection.lose()
        request = await (await server.connection()).receive()
        assert (request["since"], request["epoch"]) == (4, "new")


async def test_a_reset_whose_snapshot_was_lost_asks_for_a_snapshot(
    server: ScriptedServer, client: Client, connection: Connection
) -> None:
    """The position from before the reset is void."""
    async with client.subscribe("chatMessage", "general", since=50, epoch=EPOCH) as subscription:
        await connection.accept(reset("epoch", 3, "new"))
        await take(subscription, 1)
        connection.lose()
        assert "since" not in await (await server.connection()).receive()


@pytest.mark.parametrize("moving", ["commit", "event", "status"])
async def test_a_quiet_subscription_goes_with_the_others(
    server: ScriptedServer, client: Client, connection: Connection, moving: str
) -> None:
    """A frame of a live subscription moves all live ones, so that none resumes from far behind."""
    async with client.subscribe("chatMessage", "general") as busy, client.subscribe("chatMessage", "quiet") as quiet:
        to = [(await connection.accept(live(7)))["id"]]
        await connection.accept(live(7))
        await take(quiet, 1)
        frames = {
            "commit": commit(900, to=to),
            "event": event(900, to=to),
            "status": {"type": "status", "feed": "live", "position": 900},
        }
        await connection.send(frames[moving], event(900, to=to))
        await take(busy, 2 if moving == "status" else 3)
        assert (quiet.position, quiet.epoch) == (900, EPOCH)
        connection.lose()
        connection = await server.connection()
        requests = [await connection.receive() for _ in range(2)]
        assert {request["group"]: request["since"] for request in requests}["quiet"] == 900


async def test_it_comes_back_with_the_epoch_that_it_was_told_last(
    server: ScriptedServer, client: Client, connection: Connection
) -> None:
    """A new one began while it was live, and nothing was lost: then nothing is to begin anew."""
    async with client.subscribe("chatMessage", "general") as subscription:
        to = [(await connection.accept(live(7)))["id"]]
        await connection.send({"type": "status", "feed": "live", "position": 7, "epoch": "new"}, event(8, to=to))
        await take(subscription, 2)
        connection.lose()
        request = await (await server.connection()).receive()
        assert (request["since"], request["epoch"]) == (8, "new")


async def test_a_subscription_that_catches_up_moves_no_other(
    server: ScriptedServer, client: Client, connection: Connection
) -> None:
    """Its commits may be ahead of the live feed; and one that is not live itself is not moved by others."""
    async with (
        client.subscribe("chatMessage", "general", since=1, epoch=EPOCH) as behind,
        client.subscribe("chatMessage", "random") as other,
    ):
        first, second = await connection.receive(), await connection.accept(live(7))
        await connection.send(commit(8, change("x", group="random"), to=[second["id"]]), commit(20, to=[first["id"]]))
        await take(other, 2)
        await take(behind, 1)
        connection.lose()
        connection = await server.connection()
        requests = [await connection.receive() for _ in range(2)]
        assert {request["group"]: request["since"] for request in requests} == {"general": 20, "random": 8}
        await connection.send(live(8) | {"subscription": second["id"]})
        await connection.send(commit(40, change("x", group="random"), to=[second["id"]]))
        await take(other, 2)
        connection.lose()
        connection = await server.connection()
        requests = [await connection.receive() for _ in range(2)]
        assert {request["group"]: request["since"] for request in requests} == {"general": 20, "random": 40}


async def test_position_and_epoch_are_those_of_what_was_handed_out(client: Client, connection: Connection) -> None:
    """They don't run ahead of a consumer that has messages waiting, and are None while a snapshot is incomplete."""
    async with client.subscribe("chatMessage", "general") as subscription:
        assert (subscription.position, subscription.epoch) == (None, None)
        await connection.accept(snapshot(7, more=True), snapshot(7), live(8), commit(9), commit(10))
        places = []
        async for message in subscription:
            places.append(subscription.position)
            if isinstance(message, Commit) and message.position == 10:
                break
        assert places == [None, 7, 8, 9, 10]
        assert subscription.epoch == EPOCH


async def test_since_and_epoch_belong_together(client: Client) -> None:
    """A position without its epoch could be taken for one of another history."""
    with pytest.raises(ValueError, match="belong together"):
        client.subscribe("chatMessage", "general", since=7)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ws://me:hush-hush@127.0.0.1:{port}/a?authToken=hush-hush", "ws://127.0.0.1:{port}/a: nothing listens there"),
        ("ws://localhost:{port}", "ws://localhost:{port}: nothing listens there: does the server run"),
        ("ws://no.such.invalid", "can't connect to ws://no.such.invalid: no such host"),
        ("http://127.0.0.1:{port}?t=hush-hush", "http://127.0.0.1:{port} is no address of a WebSocket: write ws://"),
        ("localhost:{port}?t=hush-hush", "localhost:{port} is no address of a WebSocket: write ws://"),
    ],
)
async def test_an_address_that_leads_nowhere_is_named_with_what_to_look_at(url: str, message: str) -> None:
    """Without the secrets that it may have."""
    port = free_port()
    with pytest.raises((ServerUnreachableError, ServerRefusedError)) as failed:
        async with Client(url.format(port=port), proxy=None):
            pass
    assert message.format(port=port) in str(failed.value)
    assert "hush" not in str(failed.value)


async def test_a_first_connection_that_fails_is_raised(server: ScriptedServer) -> None:
    """Nobody there, not allowed, no room, or not a server of this dialect: all before anything is subscribed."""
    with pytest.raises(OSError) as unreachable:
        async with Client(f"ws://127.0.0.1:{free_port()}", proxy=None):
            pass
    assert isinstance(unreachable.value, ServerUnreachableError)
    server.refusals = [401]
    with pytest.raises(ServerRefusedError, match="401"):
        async with Client(server.url, proxy=None):
            pass
    server.refusals = [503]
    with pytest.raises(ServerUnreachableError, match="503"):
        async with Client(server.url, proxy=None):
            pass
    server.subprotocols = None
    with pytest.raises(ServerRefusedError, match=r"does not speak tidelog\.v1"):
        async with Client(server.url, proxy=None):
            pass


async def test_a_server_that_is_away_for_a_while_is_waited_for(
    server: ScriptedServer, client: Client, connection: Connection
) -> None:
    """Handshakes that fail with 503 are tried again; one that is denied is not."""
    async with client.subscribe("chatMessage", "general") as subscription:
        await connection.accept(live(7))
        server.refusals = [503, 502]
        connection.lose()
        connection = await server.connection()
        await connection.accept(live(8))
        await take(subscription, 2)
        server.refusals = [403]
        connection.lose()
        with pytest.raises(ServerRefusedError, match="403"):
            await take(subscription, 1)


async def test_the_token_is_sent_as_a_bearer(server: ScriptedServer) -> None:
    """And other headers beside it."""
    async with Client(server.url, token="secret", additional_headers={"X-Trace": "1"}, proxy=None):
        await server.connection()
    (request,) = server.requests
    assert (request.headers["Authorization"], request.headers["X-Trace"]) == ("Bearer secret", "1")


async def test_a_token_that_cannot_be_renewed_is_told_without_the_secrets_of_the_address(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection goes on, with the last one, as long as that is good."""
    tokens = ["first"]
    async with Client(f"{server.url}?authToken=hush-hush", token=tokens.pop, proxy=None) as client:
        connection = await server.connection()
        async with client.subscribe("chatMessage", "general") as subscription:
            await connection.accept(live(7))
            await connection.send({"type": "token_expires", "at": AT})
            await take(subscription, 1)
            await eventually(lambda: "no other token" in caplog.text)
    assert server.url in caplog.text
    assert "hush" not in caplog.text


def test_every_error_of_the_client_comes_with_it() -> None:
    """A program that follows streams imports what it catches from where it imports the client."""
    raised = {
        name
        for module in (tidelog.client.connection, tidelog.client.server)
        for name in vars(module)
        if name.endswith("Error")
    }
    assert raised == {name for name in tidelog.client.__all__ if name.endswith("Error")}


def test_importing_the_client_loads_nothing_of_the_server() -> None:
    """A program that only follows streams needs websockets, and neither web framework nor database driver."""
    command = [sys.executable, "-c", "import sys, tidelog.client; print(*sys.modules)"]
    modules = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    ours = {module for module in modules if module.split(".")[0] == "tidelog"}
    assert {module for module in ours if not module.startswith("tidelog.client")} == {
        "tidelog",
        "tidelog.errors",
        "tidelog.json_text",
    }
    assert not {"litestar", "sqlalchemy", "asyncpg", "pydantic"} & set(modules)
