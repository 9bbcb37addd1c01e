"""Ten thousand frames and handshakes that no client should send, against one server that others use."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import psutil
import pytest

from tests.conftest import StartServer
from tests.faults.hostile import MESSAGE_SIZE_MAX, Breach, bad_handshake, breach, in_pieces, truncated, utterance
from tests.faults.wire import CLOSE, PING, PONG, READ_TIMEOUT_SECONDS, TEXT, Wire, frame, text
from tests.harness import Server, StepsFolder, Subscriber, eventually, free_port, uvicorn_command

AT_ONCE = 16
MESSAGES_ON_ONE = 25
RSS_GROWTH_MAX_BYTES = 24 * 2**20  # of some 100; a leak of 5 KB for each of ten thousand would be twice that
FILES_MORE_MAX = 4  # connections to the database, which come and go
SUBSCRIPTIONS_MAX = 1000
WRITES_MIN = 10
CODES = {"message_invalid", "STREAM_ACCESS_DENIED", "subscription_exists"}
STATUSES = {400, 403, 404, 405, 414, 426, 431}
STREAM = 'config = {"name": "alpha", "schema": {"type": "object"}, "baseConfig": {"storageType": "default"}}'

Attack = Callable[[Server, random.Random], Awaitable[int]]


async def shake_hands_badly(server: Server, chance: random.Random) -> int:
    """It is refused with a status that says so, and the connection ends; half a one gets no answer."""
    handshake = bad_handshake(chance)
    async with Wire.open(server) as wire:
        await wire.send(handshake.data)
        if handshake.is_whole:
            head = await asyncio.wait_for(wire.reader.readline(), READ_TIMEOUT_SECONDS)
            assert head[:9] == b"HTTP/1.1 " and int(head[9:12]) in STATUSES, (head, handshake)
    return 1


async def break_the_protocol(server: Server, chance: random.Random) -> int:
    """The connection is closed with the code for it."""
    wrong: Breach = breach(chance)
    async with Wire.upgraded(server, chance.choice([None, "tidelog.v1"])) as wire:
        await wire.send(wrong.data)
        assert await wire.closing_code() == wrong.code, wrong
    return 1


async def stop_in_the_middle(server: Server, chance: random.Random) -> int:
    """Half a frame, and gone: with or without a word."""
    async with Wire.upgraded(server, chance.choice([None, "tidelog.v1"])) as wire:
        await wire.send(truncated(chance))
        if chance.random() < 0.5:
            wire.writer.write_eof()
            assert await wire.closing_code() is None
    return 1


async def speak_in_pieces(server: Server, chance: random.Random) -> int:
    """What is unusual but allowed works: one answer to the whole, and a pong for each ping."""
    async with Wire.upgraded(server, "tidelog.v1") as wire:
        message = json.dumps({"type": "subscribe", "id": "ü" * chance.randrange(1, 200), "stream": "no", "group": "g"})
        data = in_pieces(message.encode(), chance)
        await wire.send(data)
        answers = []
        while not answers or answers[-1][0] != TEXT:
            answers.append(await wire.receive())
        assert {opcode for opcode, _ in answers} <= {PONG, TEXT}
        assert json.loads(answers[-1][1])["code"] == "STREAM_ACCESS_DENIED"
    return 1


async def talk_nonsense(server: Server, chance: random.Random) -> int:
    """Every wrong message gets its error, and the connection goes on."""
    dialect = chance.choice(["motia", "tidelog"])
    said = [utterance(chance, dialect) for _ in range(MESSAGES_ON_ONE)]
    async with Wire.upgraded(server, "tidelog.v1" if dialect == "tidelog" else None) as wire:
        for one in said:
            await wire.send(text(one.text) if isinstance(one.text, str) else frame(2, one.text))
        codes = Counter(await errors_until_known(wire, dialect, "the end"))
        assert codes.keys() <= CODES, codes
        assert codes["message_invalid"] == sum(one.is_wrong for one in said), (codes, said)
    return len(said)


async def subscribe_without_end(server: Server, chance: random.Random) -> None:
    """Past the greatest number each is refused; and again and again the same is no more than one."""
    async with Wire.upgraded(server, "tidelog.v1") as wire:
        first = {"type": "subscribe", "stream": "alpha", "group": "honest"}
        storm = [first | {"id": "storm"}, {"type": "unsubscribe", "id": "storm"}] * 40
        for message in storm:
            await wire.send(text(message))
        extra = chance.randrange(1, 20)
        for number in range(SUBSCRIPTIONS_MAX + extra):
            await wire.send(text(first | {"id": f"s{number}", "group": f"g{number % 7}"}))
        codes = Counter(await errors_until_known(wire, "tidelog", "the end"))
        # The last of these asks once more; by then it isn't asked whether there is such a stream.
        assert codes == {"too_many_subscriptions": extra}, codes


async def flood_with_pings(server: Server, chance: random.Random) -> int:
    """One that asks for pongs and takes none, at times for far more than the system's buffers hold."""
    count = 30_000 if chance.random() < 0.1 else chance.randrange(200, 1000)
    async with Wire.upgraded(server) as wire:
        wire.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await wire.send(frame(PING, b"x" * 125) * count)
        await wire.send(frame(CLOSE, b"\x03\xe8"))
    return 1


ATTACKS: dict[Attack, int] = {  # how many of a hundred
    shake_hands_badly: 30,
    break_the_protocol: 40,
    stop_in_the_middle: 8,
    speak_in_pieces: 8,
    talk_nonsense: 4,  # each is many messages
    flood_with_pings: 2,
}


async def errors_until_known(wire: Wire, dialect: str, name: str) -> list[str]:
    """Ask for what there isn't, and answer the codes of all errors before that is refused; all else must be known."""
    if dialect == "tidelog":
        await wire.send(text({"type": "subscribe", "id": name, "stream": "nothing", "group": "g"}))
    else:
        await wire.send(text({"type": "join", "data": {"streamName": name, "groupId": "g", "subscriptionId": name}}))
    codes = []
    while True:
        opcode, payload = await wire.receive()
        assert opcode == TEXT, (opcode, payload)
        message = json.loads(payload)
        if dialect == "tidelog":
            assert message["type"] in {"snapshot", "live", "commit", "reset", "error"}, message
            error = message if message["type"] == "error" else None
            known = message.get("subscription")
        else:
            event = message["event"]
            assert event["type"] in {"sync", "create", "update", "event"}, message
            error = event["event"]["data"] if event["type"] == "event" else None
            known = message["streamName"]
        if error is not None:
            if known == name:
                return codes
            codes.append(error["code"])


class Honest:
    """Two subscribers, one in each dialect, who count; and the writer that they count."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._joined = asyncio.Semaphore(0)
        self.written = 0

    @classmethod
    @asynccontextmanager
    async def at_work(cls, server: Server) -> AsyncIterator[Honest]:
        """From here to the end every write has to reach both, once, in order and in time."""
        self = cls(server)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_motia())
            tasks.create_task(self._read_tidelog())
            for _ in range(2):
                await self._joined.acquire()
            writer = tasks.create_task(self._write())
            try:
                yield self
            finally:
                self._stop.set()
                await writer

    async def _write(self) -> None:
        connection = await asyncpg.connect(self._server.database_url)
        insert = (
            "insert into streams.alpha (group_id, id, data) values ('honest', 'n', jsonb_build_object('n', $1::int))"
        )
        upsert = f"{insert} on conflict (group_id, id) do update set data = excluded.data"
        while not self._stop.is_set() or self.written <= WRITES_MIN:
            self.written += 1
            await connection.execute(upsert, self.written)
            await asyncio.sleep(0.01)
        await connection.execute(upsert, -1)
        await connection.close()

    async def _read_motia(self) -> None:
        async with Subscriber.connect(self._server) as subscriber:
            await subscriber.view("alpha", "honest")
            self._joined.release()
            await self._count(lambda: self._of_motia(subscriber))

    async def _of_motia(self, subscriber: Subscriber) -> int:
        return int((await subscriber.next())["event"]["data"]["n"])

    async def _read_tidelog(self) -> None:
        async with Wire.upgraded(self._server, "tidelog.v1") as wire:
            await wire.send(text({"type": "subscribe", "id": "honest", "stream": "alpha", "group": "honest"}))
            while json.loads((await wire.receive())[1])["type"] != "live":
                pass
            self._joined.release()
            await self._count(lambda: self._of_tidelog(wire))

    async def _of_tidelog(self, wire: Wire) -> int:
        while True:
            opcode, payload = await wire.receive()
            if opcode == PING:
                await wire.send(frame(PONG, payload))
                continue
            assert opcode == TEXT, (opcode, payload)
            message = json.loads(payload)
            if message["type"] == "status":  # the database's connection may be lost on any machine
                continue
            assert message["type"] == "commit", message
            (change,) = message["changes"]
            return int(change["data"]["n"])

    async def _count(self, read: Callable[[], Awaitable[int]]) -> None:
        expected = 0
        while (number := await read()) != -1:
            expected += 1
            assert number == expected
        assert expected == self.written


async def attack(server: Server, seed: str, count: int) -> None:
    """Attacks, several at once, until `count` frames and handshakes were sent, and a storm of subscriptions besides."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    kinds, weights = list(ATTACKS), list(ATTACKS.values())
    sent = 0

    async def go_on() -> None:
        nonlocal sent
        while sent < count:
            (kind,) = chance.choices(kinds, weights)
            own = random.Random(own_seed := chance.randrange(2**32))  # noqa: S311 - no secret
            try:
                done = await kind(server, own)
            except Exception as error:
                error.add_note(f"in {kind.__name__} with seed {own_seed}")
                raise
            sent += done

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(go_on())
        tasks.create_task(subscribe_without_end(server, chance))


def connections(server: Server) -> int:
    """The sockets of the server's port that are open in its process, without the one that listens."""
    open_ones = psutil.Process(server.process.pid).net_connections("tcp")
    return sum(one.laddr.port == server.port and bool(one.raddr) for one in open_ones)


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_hostile_clients_harm_nobody(
    start_server: StartServer, steps: StepsFolder, seed: int, count: int
) -> None:
    """They get errors; others miss nothing; nothing is logged as a fault, and nothing of them stays."""
    steps.write("alpha_stream.py", STREAM)
    port = free_port()
    command = [*uvicorn_command(port), "--ws-max-size", str(MESSAGE_SIZE_MAX)]
    server: Server = await start_server(steps_dir=steps.path, port=port, command=command, is_patient=True)
    process = psutil.Process(server.process.pid)
    async with Honest.at_work(server):
        await attack(server, f"{seed} warm-up", count // 4)
        await eventually(lambda: connections(server) == 2)
        memory, files = process.memory_info().rss, process.num_fds()
        await attack(server, f"{seed}", count - count // 4)
        await eventually(lambda: connections(server) == 2)
        await eventually(lambda: process.num_fds() <= files + FILES_MORE_MAX)
        assert process.memory_info().rss < memory + RSS_GROWTH_MAX_BYTES
    assert server.process.poll() is None
    assert "Traceback" not in server.log(), server.log()[:4000]
    assert "never awaited" not in server.log(), server.log()[:4000]
