"""A writer that knows only SQL: transactions of every kind that a program or a person at psql might make."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Any, Literal

import asyncpg

from tests.faults.history import Effect, Transaction
from tests.faults.plan import GROUPS, IDS, STREAMS, Stamps, draw_data, draw_key

ISOLATION: tuple[Literal["read_committed", "repeatable_read", "serializable"], ...] = (
    "read_committed", "read_committed", "repeatable_read", "serializable",
)  # fmt: skip
RECONNECT_SECONDS = 0.1
HOLD_SECONDS_MAX = 1.0  # how long an early xid waits for its work
CONNECTION_LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the connection was ended just before it was used
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)


class _UndoError(Exception):
    """Raised to roll back, on purpose."""


class SqlWriter:
    """One connection, one transaction after the other. `transactions` tells what it did."""

    def __init__(self, name: str, url: str, random: Random, *, pause_seconds: float) -> None:
        self.transactions: list[Transaction] = []
        self.trouble: list[str] = []
        self._name = name
        self._url = url
        self._random = random
        self._pause_seconds = pause_seconds
        self._stamps = Stamps(name)
        self._actions: list[tuple[int, Callable[[Any, list[Effect]], Awaitable[None]]]] = [
            (30, self._set),
            (8, self._update_group),
            (10, self._delete),
            (2, self._delete_group),
            (8, self._recreate),
            (8, self._move),
            (4, self._change_nothing),
            (10, self._send),
            (12, self._savepoint),
            (4, self._copy),
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Write until `stop`, through every loss of the connection."""
        while not stop.is_set():
            try:
                connection = await asyncpg.connect(self._url, timeout=5, command_timeout=30)
            except (*CONNECTION_LOST, asyncpg.PostgresError):
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            try:
                while not connection.is_closed() and not stop.is_set():
                    await self._write(connection)
                    await asyncio.sleep(self._random.expovariate(1 / self._pause_seconds))
            finally:
                connection.terminate()

    async def _write(self, connection: asyncpg.Connection[Any]) -> None:
        effects: list[Effect] = []
        xid: int | None = None
        transaction = connection.transaction(isolation=self._random.choice(ISOLATION))
        is_committing = False
        try:
            await transaction.start()
            if self._random.random() < 0.3:
                xid = await transaction_id(connection)
                if self._random.random() < 0.3:
                    await asyncio.sleep(self._random.uniform(0, HOLD_SECONDS_MAX))
            for _ in range(self._random.choice((1, 1, 1, 2, 3, 6))):
                await self._act(connection, effects)
            xid = await transaction_id(connection)
            ending = self._random.random()
            if ending < 0.02:
                connection.terminate()
                raise _UndoError
            if ending < 0.12:
                raise _UndoError
            is_committing = True
            await transaction.commit()
            self._note(xid, "committed", effects)
        except (_UndoError, *CONNECTION_LOST, asyncpg.PostgresError) as error:
            with suppress(*CONNECTION_LOST, asyncpg.PostgresError):
                if not connection.is_closed() and not is_committing:
                    await transaction.rollback()
            lost_while_committing = is_committing and isinstance(error, CONNECTION_LOST)
            self._note(xid, "unknown" if lost_while_committing else "rolled back", effects)
            if isinstance(error, CONNECTION_LOST):
                connection.terminate()

    def _note(
        self, xid: int | None, outcome: Literal["committed", "rolled back", "unknown"], done: list[Effect]
    ) -> None:
        at = time.monotonic_ns() if outcome == "committed" else None
        if xid is not None or done:
            self.transactions.append(Transaction(self._name, xid, outcome, at, done))

    async def _act(self, connection: asyncpg.Connection[Any], effects: list[Effect]) -> None:
        weights = [weight for weight, _ in self._actions]
        await self._random.choices([action for _, action in self._actions], weights)[0](connection, effects)

    async def _set(self, connection: asyncpg.Connection[Any], effects: list[Effect]) -> None:
        stream, group, id = draw_key(self._random)
        await self._upsert(connection, effects, stream, group, id)

    async def _upsert(
        self, connection: asyncpg.Connection[Any], effects: list[Effect], stream: str, group: str, id: str
    ) -> None:
        stamp = self._stamps.next()
        await connection.execute(
            f"insert into streams.{stream} (group_id, id, data) values ($1, $2, $3::jsonb) "
            "on conflict (group_id, id) do update set data = excluded.data",
            *(group, id, json.dumps(draw_data(self._random, stamp))),
        )
        effects.append(Effect("set", stream, group, id, stamp))

    async def _update_group(self, connection: asyncpg.Connection[Any], effects: list[Effect]) -> None:
        stream, group, _ = draw_key(self._random)
        rows = await connection.fetch(
            f"update streams.{stream} set data = data || jsonb_build_object('stamp', $2::text || '.' || id) "
            "where group_id = $1 returning id, data ->> 'stamp' as stamp",
            *(group, self._stamps.next()),
        )
        effects += [Effect("set", stream, group, row["id"], row["stamp"]) for row in rows]

    async def _delete(self, connection: asyncpg.Connection[Any], effects: list[Effect]) -> None:
        await self._remove(connection, effects, *draw_key(self._random))

    async def _remove(
        self, connection: asyncpg.Connection[Any], effects: list[Effect], stream: str, group: str, id: str | None
    ) -> None:
        rows = await connection.fetch(
            f"delete from streams.{stream} where group_id = $1 and ($2::text is null or id = $2) "
            "returning id, data ->> 'stamp' as stamp",
            *(group, id),
        )
        effects += [Effect("delete", stream, group, row["id"], row["stamp"]) for row in rows]

    async def _delete_group(self, connection: asyncpg.Connection[Any], effects: list[Effect]) -> None:
        stream, group, _ = draw_key(self._random)
        await self._remove(connection, effects, stream, group, None)

    async def _recreate(self, connection: asyncpg.Connection[Any], effects: list[Effect]) -> None:
        key = draw_key(self._random)
        await self._remove(connection, effects, *key)
        await self._upsert(connection, effects, *key)

    async def _move(self, connection: asyncpg.Connection[Any], effects: list[Effect]) -> None:
        stream, group, id = draw_key(self._random)
        to_group, to_id = self._random.choice(GROUPS), self._random.choice(IDS)
        if (group, id) == (to_group, to_id):
            return
        with suppress(asyncpg.UniqueViolationError):  # somebody is there already
            async with connection.transaction():
                stamp, old_stamp = self._stamps.next(), None
                old_stamp = await connection.fetchval(
                    f"select data ->> 'stamp' from streams.{stream} where group_id = $1 and id = $2 for update",
                    *(group, id),
                )
                if old_stamp is None:
                    return
                await connection.execute(
                    f"update streams.{stream} set group_id = $3, id = $4, "
                    "data = data || jsonb_build_object('stamp', $5::text) where group_id = $1 and id = $2",
                    *(group, id, to_group, to_id, stamp),
                )
                effects.append(Effect("delete", stream, group, id, old_stamp))
                effects.append(Effect("set", stream, to_group, to_id, stamp))

    async def _change_nothing(self, connection: asyncpg.Connection[Any], effects: list[Effect]) -> None:
        stream, group, _ = draw_key(self._random)
        await connection.execute(f"update streams.{stream} set data = data where group_id = $1", group)

    async def _send(self, connection: asyncpg.Connection[Any], effects: list[Effect]) -> None:
        stream, group, id = draw_key(self._random)
        channel_id = id if self._random.random() < 0.5 else None
        stamp = self._stamps.next()
        data = json.dumps(draw_data(self._random, stamp))
        await connection.execute(
            "select streams.send($1, $2, $3, 'note', $4::jsonb)", *(stream, group, channel_id, data)
        )
        effects.append(Effect("event", stream, group, channel_id, stamp))

    async def _savepoint(self, connection: asyncpg.Connection[Any], effects: list[Effect]) -> None:
        inner: list[Effect] = []
        with suppress(_UndoError):
            async with connection.transaction():
                for _ in range(self._random.choice((1, 2, 3))):
                    await self._act(connection, inner)
                if self._random.random() < 0.4:
                    raise _UndoError
            effects += inner

    async def _copy(self, connection: asyncpg.Connection[Any], effects: list[Effect]) -> None:
        """COPY knows no conflicts: what is there goes first."""
        stream, group, _ = draw_key(self._random)
        ids = self._random.sample(IDS, 3)
        inner: list[Effect] = []
        with suppress(asyncpg.UniqueViolationError):
            async with connection.transaction():
                for id in sorted(ids):
                    await self._remove(connection, inner, stream, group, id)
                stamps = {id: self._stamps.next() for id in ids}
                rows = [(group, id, json.dumps(draw_data(self._random, stamps[id]))) for id in ids]
                await connection.copy_records_to_table(
                    stream, schema_name="streams", columns=("group_id", "id", "data"), records=rows
                )
                effects += [*inner, *(Effect("set", stream, group, id, stamps[id]) for id in ids)]


async def write_final(url: str, stamp: str) -> Transaction:
    """Set every item, in one commit, so that every channel shows that all before it has come."""
    connection = await asyncpg.connect(url)
    try:
        effects = []
        async with connection.transaction(isolation="read_committed"):
            for stream in STREAMS:
                await connection.execute(
                    f"insert into streams.{stream} (group_id, id, data) select g, i, "
                    "jsonb_build_object('stamp', $3::text) "
                    "from unnest($1::text[]) g, unnest($2::text[]) i order by g, i "
                    "on conflict (group_id, id) do update set data = excluded.data",
                    *(GROUPS, IDS, stamp),
                )
                effects += [Effect("set", stream, group, id, stamp) for group in GROUPS for id in IDS]
            xid = await transaction_id(connection)
        return Transaction("the end", xid, "committed", time.monotonic_ns(), effects)
    finally:
        await connection.close()


async def transaction_id(connection: asyncpg.Connection[Any]) -> int:
    """The current transaction's, which it gets now if it has none yet."""
    return int(await connection.fetchval("select pg_current_xact_id()::text"))
