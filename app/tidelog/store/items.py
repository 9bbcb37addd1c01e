"""The items of one stream: get, set, delete, list; and ephemeral events, which take the same way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import asyncpg
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from tidelog.errors import ItemInvalidError, KeyInvalidError, await_hint, shown
from tidelog.json_text import is_within, parse
from tidelog.model.stream import Stream
from tidelog.store.checkout import AskAgainError

KEY_LENGTH_MAX_BYTES = 1024  # two of them fit in a btree entry (2704 bytes) beside its overhead
TYPE_LENGTH_MAX_BYTES = 256  # of an event; what the database takes, see check_event.sql
# What the database finds to be too much for an item's or an event's readers: names of check_json.sql.
REFUSALS = frozenset({"tidelog_item_size", "tidelog_item_depth", "tidelog_item_digits"})
# What a write answers beside: it is in the transaction whose id this is, and to ask for it later is a round trip.
TRANSACTION = "streams.transaction_id()"
_INT_KEY_BITS_MAX = (10**KEY_LENGTH_MAX_BYTES).bit_length()  # more digits are no key, and str() may refuse them

encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=to_jsonable_python).encode


class Lendable(Protocol):
    """What of a connection is used here."""

    async def fetch(self, query: str, /, *parameters: Any) -> Sequence[Any]:
        """The rows."""
        ...


class Loan(AbstractAsyncContextManager[Lendable], Protocol):
    """A connection for the length of an operation."""

    def note_transaction(self, transaction: int) -> None:
        """The id of the transaction in which the operation wrote."""
        ...


# Given whether it is for a write.
Lend = Callable[[bool], Loan]
Item = dict[str, Any]


class Items:
    """One stream's items, through whatever connection `lend` gives for the length of an operation.

    Every operation is one round trip, on the driver itself: a step's speed is decided here. Every item is a
    dict that carries its `id`. Raises KeyInvalidError and ItemInvalidError before it takes a connection, and
    ItemInvalidError for what only the database can tell to be too much; other database errors come as asyncpg's.
    """

    def __init__(self, stream: Stream, *, size_max_bytes: int) -> None:
        self._stream = stream
        self._size_max_bytes = size_max_bytes
        table = f"streams.{stream.table}"  # a validated identifier: letters, digits, underscores
        self._get = f"select data::text from {table} where group_id = $1 and id = $2"  # noqa: S608
        self._set = (
            f"insert into {table} as item (group_id, id, data) values ($1, $2, $3::text::jsonb) "  # noqa: S608
            f"on conflict (group_id, id) do update set data = excluded.data returning data::text, {TRANSACTION}"
        )
        self._delete = f"delete from {table} where group_id = $1 and id = $2 returning data::text, {TRANSACTION}"  # noqa: S608
        self._list = f"select data::text from {table} where group_id = $1 order by created_at, id"  # noqa: S608

    async def get(self, lend: Lend, group_id: str, id: str) -> Item | None:
        """The item, or None if there is none."""
        return await _one(lend, False, self._get, _key("group id", group_id), _key("id", id))

    async def set(self, lend: Lend, group_id: str, id: str, data: Any) -> Item:
        """Create or replace the item with `data`, a dict or pydantic model; returns what was stored."""
        group_id, id = _key("group id", group_id), _key("id", id)
        text, value = to_json(data)
        if not isinstance(value, dict):
            raise ItemInvalidError(
                f"item {id!r:.80} of stream {self._stream.name!r} must be an object, not {shown(value)}",
                culprits=[value],
            )
        item = self._stream.check(value, id)
        if value.get("id") != id:
            text = encode(item)
        self._check_size(text, value.values())
        try:
            stored = await _one(lend, True, self._set, group_id, id, text)
        except asyncpg.CheckViolationError as error:
            raise self._as_refusal(error, value.values()) from error
        if stored is None:
            raise ItemInvalidError(
                f"item {id!r:.80} of stream {self._stream.name!r} was refused by a trigger of its table"
            )
        return stored

    async def delete(self, lend: Lend, group_id: str, id: str) -> Item | None:
        """Delete the item; returns it as it was, or None if there was none."""
        return await _one(lend, True, self._delete, _key("group id", group_id), _key("id", id))

    async def list(self, lend: Lend, group_id: str) -> list[Item]:
        """All items of the group, oldest first."""
        key = _key("group id", group_id)
        rows = await _ask(lend, False, self._list, key)
        return [parse(row[0]) for row in rows]

    async def send(self, lend: Lend, group_id: str, id: str | None, type: str, data: Any) -> None:
        """Send an ephemeral event to the group's subscribers, or to the item's; it goes with the commit."""
        group_id = _key("group id", group_id)
        channel_id = None if id is None else _key("id", id)
        if not isinstance(type, str) or "\0" in type or not 1 <= _size(type) <= TYPE_LENGTH_MAX_BYTES:
            message = (
                f"an event's type must be a string of 1 to {TYPE_LENGTH_MAX_BYTES} bytes, without NUL characters or "
                f"lone surrogates, not {shown(type)}"
            )
            raise ItemInvalidError(message, culprits=[type])
        text, value = to_json(data)
        self._check_size(text, [value])
        sql = f"select streams.send($1, $2, $3, $4, $5::text::jsonb), {TRANSACTION}"
        try:
            await _ask(lend, True, sql, self._stream.name, group_id, channel_id, type, text)
        except asyncpg.CheckViolationError as error:
            raise self._as_refusal(error, [value]) from error

    def _check_size(self, text: str, parts: Iterable[Any]) -> None:
        size = len(text) if text.isascii() else len(text.encode())
        if size > self._size_max_bytes:
            raise ItemInvalidError(
                f"stream {self._stream.name!r}: {size} bytes of JSON; at most {self._size_max_bytes} are taken "
                "(TIDELOG_BODY_SIZE_MAX_BYTES)",
                culprits=[_largest(parts)],
            )

    def _as_refusal(self, error: asyncpg.CheckViolationError, parts: Iterable[Any]) -> Exception:
        """The same as the stream's refusal, if it is one of check_json.sql."""
        if error.constraint_name not in REFUSALS:
            return error  # a constraint of the author's own
        return ItemInvalidError(f"stream {self._stream.name!r}: {error}", culprits=[_largest(parts)])


async def recheck(lend: Lend, subject: str | None, stream: str | None, group_id: str | None) -> None:
    """Have the rules asked again for the subscriptions that match, once what is lent is committed."""
    await _ask(lend, True, "select streams.recheck($1, $2, $3)", subject, stream, group_id)


def _largest(parts: Iterable[Any]) -> Any:
    return max(parts, key=lambda part: len(encode(part)), default=None)


async def _one(lend: Lend, writes: bool, sql: str, *parameters: str) -> Item | None:
    rows = await _ask(lend, writes, sql, *parameters)
    return parse(rows[0][0]) if rows else None


async def _ask(lend: Lend, writes: bool, sql: str, *parameters: str | None) -> Sequence[Any]:
    lent = lend(writes)  # once, as it counts how often it is asked again
    while True:
        try:
            async with lent as connection:
                rows = await connection.fetch(sql, *parameters)
                if writes and rows:
                    lent.note_transaction(rows[0][1])
                return rows
        except AskAgainError:
            continue


def to_json(value: Any) -> tuple[str, Any]:
    """`value` as JSON text, and as plain JSON types (pydantic models, datetimes, UUIDs and the like become them).

    Raises ItemInvalidError for what JSON or jsonb can't hold: NaN, infinities, NUL characters, lone
    surrogates, other objects.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    try:
        text = encode(value)
        text.encode()
    except (ValueError, TypeError, RecursionError, PydanticSerializationError) as error:
        raise ItemInvalidError(f"not JSON: {error}{await_hint(str(error))}") from error
    plain = parse(text)
    if "\\u0000" in text and is_within(plain, lambda one: isinstance(one, str) and "\0" in one):
        raise ItemInvalidError("not storable: Postgres's jsonb can't hold the NUL character (\\u0000)")
    return text, plain


def _size(text: str) -> int:
    """In bytes of UTF-8; 0 of what it can't hold."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return 0


def _key(what: str, key: str) -> str:
    if isinstance(key, int) and not isinstance(key, bool) and key.bit_length() <= _INT_KEY_BITS_MAX:
        key = str(key)  # JavaScript's habit, and Motia's: a key is a string, whatever was passed
    if not isinstance(key, str):
        raise KeyInvalidError(f"{what} must be a string, not {shown(key)}{await_hint(shown(key))}", key)
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise KeyInvalidError(f"{what} {key!r:.80} has a lone surrogate, which UTF-8 can't hold", key) from None
    if "\0" in key or not 1 <= size <= KEY_LENGTH_MAX_BYTES:
        message = f"{what} {key!r:.80} must have 1 to {KEY_LENGTH_MAX_BYTES} bytes and no NUL character"
        raise KeyInvalidError(message, key)
    return key
