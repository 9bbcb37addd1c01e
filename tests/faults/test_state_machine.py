"""Hypothesis writes, subscribes, drops, resumes and removes as it likes: what anybody is told equals a simple model.

Real servers and a real Postgres; each example has groups of its own. A failure is printed as a program of few steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.conftest import StartServer
from tests.faults.model import Item, Key, Model, Target, Transaction
from tests.faults.model_peer import Peer
from tests.faults.model_world import OPEN_MAX, World, put
from tests.harness import StepsFolder
from tidelog.store.retention import read_floor, remove_commits

STREAMS = ("alpha", "beta")
GROUPS = (("alpha", "g"), ("alpha", "h"), ("beta", "g"))
IDS = ("a", "b", "c")
STREAM = 'config = {{"name": "{name}", "schema": {{"type": "object"}}, "baseConfig": {{"storageType": "default"}}}}\n'
PAD_CHARACTERS = 50_000  # two make a page; some fill a connection's buffer
SOCKET_BUFFER_BYTES = 4096
PEERS_MAX = 3
EXPLORATIONS_MAX = 4

keys = st.tuples(st.sampled_from(GROUPS), st.sampled_from(IDS))
writes = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "delete", "undo"]), keys, st.integers(0, 2), st.sampled_from([0, 0, 1])
    ),
    min_size=1,
    max_size=5,
)
targets = st.tuples(st.sampled_from(GROUPS), st.sampled_from([None, None, *IDS]))
which = st.integers(0, 5)

KeyChoice = tuple[tuple[str, str], str]
Writes = list[tuple[str, KeyChoice, int, int]]
TargetChoice = tuple[tuple[str, str], str | None]


class UndoneError(Exception):
    """Rolls a transaction, or a savepoint, back."""


class Streams(RuleBasedStateMachine):
    """Rules change the database, the model and the connections; messages are compared when they are read."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.prefix = f"{next(world.serial)}-"
        self.model = Model()
        self.openers: dict[Transaction, asyncpg.Connection[Any]] = {}
        self.peers: list[Peer] = []
        self.places: list[tuple[Target, int]] = []  # where subscriptions that have ended stood
        self.epoch: str = world.run(
            world.sql.fetchval("select epoch::text from streams.epoch order by began_at desc limit 1")
        )
        self.model.floor = world.run(read_floor(world.sql))

    @rule(writes=writes)
    def write(self, writes: Writes) -> None:
        self.world.run(self._write(writes))

    @rule(key=keys, count=st.integers(2, 12))
    def write_much(self, key: KeyChoice, count: int) -> None:
        """Commits that together are more than a connection takes that isn't read."""
        self.world.run(self._write_much(key, count))

    @rule(writes=writes)
    def roll_back(self, writes: Writes) -> None:
        self.world.run(self._roll_back(writes))

    @precondition(lambda self: len(self.model.open) < OPEN_MAX)
    @rule(writes=writes)
    def leave_open(self, writes: Writes) -> None:
        """A transaction that stays open while others go on."""
        self.world.run(self._leave_open(writes))

    @precondition(lambda self: self.model.open)
    @rule(writes=writes, which=which)
    def write_more(self, writes: Writes, which: int) -> None:
        transaction = self.model.open[which % len(self.model.open)]
        self.world.run(self._apply(self.openers[transaction], transaction, writes))

    @precondition(lambda self: self.model.open)
    @rule(which=which, commits=st.booleans())
    def end_open(self, which: int, commits: bool) -> None:
        self.world.run(self._end_open(self.model.open[which % len(self.model.open)], commits=commits))

    @precondition(lambda self: len(self.peers) < PEERS_MAX)
    @rule(which=which)
    def connect(self, which: int) -> None:
        server = self.world.servers[which % len(self.world.servers)]
        self.peers.append(self.world.run(Peer.connect(server, self.model, self.epoch)))

    @precondition(lambda self: self.peers)
    @rule(which=which, choice=targets)
    def subscribe(self, which: int, choice: TargetChoice) -> None:
        self.world.run(self._subscribe(which, self._target(choice), None))

    @precondition(lambda self: self.peers and self.places)
    @rule(which=which, place=st.integers(0, 100))
    def resume(self, which: int, place: int) -> None:
        """Go on from where a subscription was that has ended, most likely the last."""
        target, position = self.places[-1 - place % min(len(self.places), 4)]
        self.world.run(self._subscribe(which, target, position))

    @precondition(lambda self: self.peers and self.model.commits)
    @rule(which=which, choice=targets, back=st.integers(0, 12))
    def resume_from_before(self, which: int, choice: TargetChoice, back: int) -> None:
        """Go on from a position that this client never was at."""
        position = [0, *self.model.commits][-1 - back % (len(self.model.commits) + 1)]
        self.world.run(self._subscribe(which, self._target(choice), position))

    @precondition(lambda self: self.peers)
    @rule(which=which, choice=targets, before=writes, after=writes)
    def subscribe_ahead_of_the_numbers(self, which: int, choice: TargetChoice, before: Writes, after: Writes) -> None:
        """A snapshot is read while commits that it shows have no number yet."""
        self.world.run(self._subscribe_unnumbered(which, self._target(choice), before, after))

    @precondition(lambda self: self.peers)
    @rule(which=which, key=keys, missed=st.integers(2, 12), later=st.integers(1, 3), removes=st.booleans())
    def come_back_to_much(self, which: int, key: KeyChoice, missed: int, later: int, removes: bool) -> None:
        """A client missed more than it takes at once, and more happens before it has read that."""
        self.world.run(self._come_back_to_much(which, key, missed, later))
        if removes:
            self.world.run(self._remove(later))

    @precondition(lambda self: any(peer.current for peer in self.peers))
    @rule(which=which, key=keys, choice=targets, count=st.integers(6, 12), after=writes)
    def join_one_that_is_behind(
        self, which: int, key: KeyChoice, choice: TargetChoice, count: int, after: Writes
    ) -> None:
        """What is live gets more than the connection takes, and a new subscription to the same connection comes."""
        self.world.run(self._settle())
        self.world.run(self._write_much(key, count))
        self.world.run(self._subscribe(which, self._target(choice), None))
        self.world.run(self._write(after))

    @precondition(lambda self: any(peer.current for peer in self.peers))
    @rule(which=which)
    def unsubscribe(self, which: int) -> None:
        all_current = [(peer, one) for peer in self.peers for one in peer.current]
        peer, subscription = all_current[which % len(all_current)]
        self.world.run(peer.unsubscribe(subscription))
        if subscription.position is not None:
            self.places.append((subscription.target, subscription.position))

    @precondition(lambda self: self.peers)
    @rule(which=which, count=st.integers(1, 3))
    def read_some(self, which: int, count: int) -> None:
        """Stop reading wherever that is."""
        self.world.run(self._read_some(self.peers[which % len(self.peers)], count))

    @precondition(lambda self: self.peers)
    @rule(which=which)
    def drop(self, which: int) -> None:
        """What was sent and not read is lost; the client knows how far it was."""
        peer = self.peers.pop(which % len(self.peers))
        self.places += [(one.target, one.position) for one in peer.current if one.position is not None]
        self.world.run(peer.drop())

    @rule(kept=st.integers(1, 12))
    def remove(self, kept: int) -> None:
        """Retention: only the last few commits are kept."""
        self.world.run(self._remove(kept))

    @rule()
    def settle(self) -> None:
        """Everybody reads up to a mark, and then has what the tables have."""
        self.world.run(self._settle())

    def teardown(self) -> None:
        try:
            self.world.run(self._settle())
        finally:
            for peer in self.peers:
                self.world.run(peer.drop())
            for transaction in list(self.model.open):
                self.world.run(self._end_open(transaction, commits=False))

    def _target(self, choice: TargetChoice) -> Target:
        (stream, group), id = choice
        return Target(stream, self.prefix + group, id)

    async def _write(self, writes: Writes) -> None:
        transaction = Transaction(self.model)
        async with self.world.sql.transaction():
            await self._apply(self.world.sql, transaction, writes)
        self.model.commit(transaction)

    async def _write_much(self, key: KeyChoice, count: int) -> None:
        for _ in range(count):
            await self._write([("put", key, next(self.world.serial), 1)])

    async def _roll_back(self, writes: Writes) -> None:
        with suppress(UndoneError):
            async with self.world.sql.transaction():
                await self._apply(self.world.sql, Transaction(self.model), writes)
                raise UndoneError

    async def _leave_open(self, writes: Writes) -> None:
        transaction = Transaction(self.model)
        connection = next(one for one in self.world.openers if one not in self.openers.values())
        await connection.execute("begin")
        self.openers[transaction] = connection
        self.model.open.append(transaction)
        await self._apply(connection, transaction, writes)

    async def _end_open(self, transaction: Transaction, *, commits: bool) -> None:
        self.model.open.remove(transaction)
        await self.openers.pop(transaction).execute("commit" if commits else "rollback")
        if commits:
            self.model.commit(transaction)

    async def _apply(self, sql: asyncpg.Connection[Any], transaction: Transaction, writes: Writes) -> None:
        """Write to the database and to the model, but not what another transaction would have to be waited for."""
        locked = self.model.locked() - transaction.touched
        for kind, ((stream, group), id), n, pads in writes:
            key = Key(stream, self.prefix + group, id)
            if key in locked:
                continue
            transaction.touched.add(key)
            data = {"id": id, "n": n, "pad": "x" * PAD_CHARACTERS * pads}
            if kind == "put":
                await put(sql, key, data)
                transaction.put(key, data)
            elif kind == "delete":
                await sql.execute(f"delete from streams.{stream} where group_id = $1 and id = $2", key.group, id)
                transaction.delete(key)
            else:
                await sql.execute("savepoint undone")
                await put(sql, key, data)
                await sql.execute("rollback to savepoint undone")
        transaction.xid = await sql.fetchval("select pg_current_xact_id()")

    async def _number(self) -> None:
        """Tell the model the numbers of all that is committed."""
        if self.model.unnumbered:
            self.model.number(await self.world.numbers(list(self.model.unnumbered)))

    async def _subscribe(self, which: int, target: Target, since: int | None) -> None:
        await self._number()
        peer = self.peers[which % len(self.peers)]
        await peer.subscribe(f"s{next(self.world.serial)}", target, since)

    async def _subscribe_unnumbered(self, which: int, target: Target, before: Writes, after: Writes) -> None:
        peer = self.peers[which % len(self.peers)]
        async with self.world.holder.transaction():
            await self.world.holder.execute("lock table streams.commit in share row exclusive mode")
            await self._write(before)
            await peer.subscribe(f"s{next(self.world.serial)}", target, None)
            await self.world.snapshot_read()
            await self._write(after)

    async def _come_back_to_much(self, which: int, key: KeyChoice, missed: int, later: int) -> None:
        await self._number()
        position = max(self.model.commits, default=self.model.floor)
        await self._write_much(key, missed)
        await self._subscribe(which, self._target((key[0], None)), position)
        await self._write_much(key, later)

    async def _read_some(self, peer: Peer, count: int) -> None:
        await self._number()
        for _ in range(count):
            if peer.is_settling:
                await peer.next()

    async def _remove(self, kept: int) -> None:
        await self._number()
        head = await self.world.sql.fetchval("select max(number) from streams.commit") or 0
        floor = await read_floor(self.world.sql)
        if head - kept > floor:
            removed = await remove_commits(
                self.world.sql, floor, older_than=timedelta(0), commits_max=head - kept - floor
            )
            self.model.floor = removed.floor

    async def _settle(self) -> None:
        await self._number()
        mark = f"mark {next(self.world.serial)}"
        sql = self.world.sql
        async with sql.transaction():
            await sql.execute("select streams.send('alpha', 'nobody', null, $1, 'null')", mark)
            for stream, group, id in {one.target for peer in self.peers for one in peer.current}:
                await sql.execute("select streams.send($1, $2, $3, $4, 'null')", stream, group, id, mark)
            xid = await sql.fetchval("select pg_current_xact_id()")
        number = self.model.marks[mark] = (await self.world.numbers([xid]))[xid]
        for peer in self.peers:
            await peer.read_past(number)
        await self._compare_with_the_tables()

    async def _compare_with_the_tables(self) -> None:
        rows = {}
        for stream in STREAMS:
            select = f"select group_id, id, version, data from streams.{stream} where starts_with(group_id, $1)"
            for group, id, version, data in await self.world.sql.fetch(select, self.prefix):
                rows[Key(stream, group, id)] = Item(version, data)
        assert rows == self.model.items


@pytest.fixture
def world(start_server: StartServer, steps: StepsFolder) -> Iterator[World]:
    """Two servers on one database; the loop is not the tests', for Hypothesis calls rules from outside of any."""
    for name in STREAMS:
        steps.write(f"{name}_stream.py", STREAM.format(name=name))
    loop = asyncio.new_event_loop()
    options = {"is_patient": True, "TIDELOG_SOCKET_BUFFER_BYTES_MAX": str(SOCKET_BUFFER_BYTES)}
    servers = [loop.run_until_complete(start_server(steps_dir=steps.path, **options)) for _ in range(2)]
    world = loop.run_until_complete(World.begin(loop, servers))
    yield world
    loop.run_until_complete(world.end())
    loop.close()


def explore(world: World, seed: int, *, examples: int, rules: int) -> None:
    """Explore; anew, with the next seed, if Hypothesis could not follow.

    What has been received decides what a rule may draw, and when it comes differs from time to time: Hypothesis calls
    that flaky. It says nothing of the feed, unless something failed, too.
    """
    for attempt in range(EXPLORATIONS_MAX - 1):
        try:
            return _explore(world, seed + attempt, examples, rules)
        except FlakyStrategyDefinition:
            if world.problem is not None:
                raise world.problem from None
    return _explore(world, seed + EXPLORATIONS_MAX - 1, examples, rules)


def _explore(world: World, seed: int, examples: int, rules: int) -> None:
    run_state_machine_as_test(
        seeded(seed)(lambda: Streams(world)),
        settings=settings(
            max_examples=examples,
            stateful_step_count=rules,
            deadline=None,
            print_blob=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(600)  # a failure takes up to five minutes to be made small
def test_whatever_is_done_everybody_is_told_exactly_what_happened(world: World, seed: int) -> None:
    """Writes, subscriptions, lost connections, resumes and retention, in any order: no message but the right one."""
    explore(world, seed, examples=60, rules=40)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_whatever_is_done_for_long(world: World, seed: int) -> None:
    """The same with many more examples."""
    explore(world, seed, examples=150, rules=60)
