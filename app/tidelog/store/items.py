"""The items of one stream, each an operation by itself; and ephemeral events, which take the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg

from tidelog.errors import ItemConflictError, ItemInvalidError, StreamUnknownError, shown
from tidelog.json_text import parse
from tidelog.model import edits
from tidelog.model.item import Item
from tidelog.model.stream import Stream, checked_ttl
from tidelog.store.asking import Lend, ask
from tidelog.store.changing import Changed, Statement, change
from tidelog.store.conditions import invalid
from tidelog.store.failure import in_a_line
from tidelog.store.item_json import check_size, checked_key, encode, largest, size_of, to_json
from tidelog.store.item_pages import ItemPages
from tidelog.store.item_statements import TRANSACTION, ItemStatements

TYPE_LENGTH_MAX_BYTES = 256  # of an event; what the database takes, see check_event.sql
VERSION_MAX = 2**63 - 1
# What the database finds to be too much for an item's or an event's readers: names of check_json.sql.
REFUSALS = frozenset({"tidelog_item_size", "tidelog_item_depth", "tidelog_item_digits"})


class Items(ItemPages):
    """One stream's items, through whatever connection `lend` gives for the length of an operation.

    Most operations are one round trip, on the driver itself: a step's speed is decided here. Every item is a
    dict that carries its `id`. Raises KeyInvalidError, ItemInvalidError and OperationInvalidError before it takes a
    connection, ItemInvalidError for what only the database can tell to be too much, and ItemConflictError; other
    database errors come as asyncpg's. A time to live (`ttl`) is in seconds; None is the stream's own, 0 none.
    """

    def __init__(self, stream: Stream, *, size_max_bytes: int) -> None:
        super().__init__(stream)
        self._size_max_bytes = size_max_bytes

    async def get(self, lend: Lend, group_id: str, id: str) -> Item | None:
        """The item, or None if there is none."""
        group_id, id = checked_key("group id", group_id), checked_key("id", id)
        rows = await ask(lend, False, self._sql.get, group_id, id)
        return self._item(group_id, rows[0]) if rows else None

    async def set(
        self, lend: Lend, group_id: str, id: str, data: Any, *, if_version: int | None = None, ttl: float | None = None
    ) -> Item:
        """Create or replace the item with `data`, a dict or pydantic model; returns what was stored.

        With `if_version`, only if it has that version; 0 is: only if there is none.
        """
        group_id, id = checked_key("group id", group_id), checked_key("id", id)
        text, parts = self._text_of(id, data)
        parameters: list[Any] = [group_id, id, text]
        if ttl is not None:
            parameters.append(checked_ttl(ttl) or None)
        if if_version is None:
            statement = self._sql.set if ttl is None else self._sql.set_until
        elif _checked_version(if_version) == 0:
            statement = self._sql.create if ttl is None else self._sql.create_until
        else:
            statement = self._sql.set_version if ttl is None else self._sql.set_version_until
            parameters.append(if_version)
        try:
            rows = await ask(lend, True, statement, *parameters)
        except asyncpg.CheckViolationError as error:
            raise self._as_refusal(error, parts) from error
        if rows:
            return self._item(group_id, rows[0])
        if if_version is not None:
            raise await self._conflict(lend, group_id, id, if_version)
        raise ItemInvalidError(f"item {id!r:.80} of stream {self._stream.name!r} was refused by a trigger of its table")

    async def create(self, lend: Lend, group_id: str, id: str, data: Any, *, ttl: float | None = None) -> Item:
        """Create the item. Raises ItemConflictError if there is one."""
        return await self.set(lend, group_id, id, data, if_version=0, ttl=ttl)

    async def delete(self, lend: Lend, group_id: str, id: str, *, if_version: int | None = None) -> Item | None:
        """Delete the item; returns it as it was, or None if there was none."""
        group_id, id = checked_key("group id", group_id), checked_key("id", id)
        if if_version is None:
            rows = await ask(lend, True, self._sql.delete, group_id, id)
            return self._item(group_id, rows[0]) if rows and rows[0][3] else None
        if _checked_version(if_version) == 0:
            raise invalid("if_version of delete() is from 1 on: of 0 there is nothing to delete", if_version)
        rows = await ask(lend, True, self._sql.delete_version, group_id, id, if_version)
        if not rows:
            raise await self._conflict(lend, group_id, id, if_version)
        return self._item(group_id, rows[0])

    async def update(self, lend: Lend, group_id: str, id: str, operations: Any) -> Item:
        """Change it by Motia's operations; see edits.updated. What is missing is made, also the item."""
        return await self._edited(lend, group_id, id, lambda before: edits.updated(before, operations))

    async def patch(self, lend: Lend, group_id: str, id: str, operations: Any) -> Item:
        """Change it by a JSON Patch (RFC 6902). An item that isn't there is {}."""
        return await self._edited(lend, group_id, id, lambda before: edits.patched(before, operations))

    async def merge_patch(self, lend: Lend, group_id: str, id: str, patch: Any) -> Item:
        """Change it by a JSON Merge Patch (RFC 7396). An item that isn't there is {}."""
        return await self._edited(lend, group_id, id, lambda before: edits.merged(before, patch))

    async def exchange(
        self, lend: Lend, group_id: str, id: str, make: Callable[[Any], Any], *, renews: bool = True
    ) -> tuple[Any, Item]:
        """Set the item to what `make` makes of it (None if there is none); returns it before and after.

        `make` may be called several times. `renews`: what it makes lives as long as if it were set.
        """
        changed = await self._change(lend, group_id, id, make, renews=renews)
        return None if changed.before is None else parse(changed.before), self._item(group_id, changed.row)

    async def send(self, lend: Lend, group_id: str, id: str | None, type: str, data: Any) -> None:
        """Send an ephemeral event to the group's subscribers, or to the item's; it goes with the commit."""
        group_id = checked_key("group id", group_id)
        channel_id = None if id is None else checked_key("id", id)
        if not isinstance(type, str) or "\0" in type or not 1 <= size_of(type) <= TYPE_LENGTH_MAX_BYTES:
            message = (
                f"an event's type must be a string of 1 to {TYPE_LENGTH_MAX_BYTES} bytes, without NUL characters or "
                f"lone surrogates, not {shown(type)}"
            )
            raise ItemInvalidError(message, culprits=[type])
        text, value = to_json(data)
        check_size(self._where, text, [value], self._size_max_bytes)
        sql = f"select streams.send($1, $2, $3, $4, $5::text::jsonb), {TRANSACTION}"
        try:
            await ask(lend, True, sql, self._stream.name, group_id, channel_id, type, text)
        except asyncpg.CheckViolationError as error:
            raise self._as_refusal(error, [value]) from error

    async def _edited(self, lend: Lend, group_id: str, id: str, make: Callable[[Any], Any]) -> Item:
        _, item = await self.exchange(lend, group_id, id, make, renews=False)
        return item

    async def _change(self, lend: Lend, group_id: str, id: str, make: Callable[[Any], Any], *, renews: bool) -> Changed:
        group_id, id = checked_key("group id", group_id), checked_key("id", id)
        made: list[Any] = []  # the parts of what was made last

        def text_of(before: Any) -> str:
            text, parts = self._text_of(id, make(before))
            made[:] = parts
            return text

        try:
            return await change(lend, _ItemPlace(self._sql, group_id, id, renews), text_of)
        except asyncpg.CheckViolationError as error:
            raise self._as_refusal(error, made) from error

    def _text_of(self, id: str, data: Any) -> tuple[str, list[Any]]:
        """The text of an item that may be stored, and the values of its fields. Raises ItemInvalidError."""
        text, value = to_json(data)
        if not isinstance(value, dict):
            raise ItemInvalidError(
                f"item {id!r:.80} of stream {self._stream.name!r} must be an object, not {shown(value)}",
                culprits=[value],
            )
        item = self._stream.check(value, id)
        if value.get("id") != id:
            text = encode(item)
        parts = list(value.values())
        check_size(self._where, text, parts, self._size_max_bytes)
        return text, parts

    async def _conflict(self, lend: Lend, group_id: str, id: str, wanted: int) -> ItemConflictError:
        """What to say of an item that has not the version that was wanted."""
        rows = await ask(lend, False, self._sql.get, group_id, id)
        there = f"has version {rows[0][1]}" if rows else "is not there"
        expected = f"version {wanted}" if wanted else "none to be there"
        return ItemConflictError(
            f"item {id!r:.80} of stream {self._stream.name!r} {there}, and the caller expected {expected}: "
            "read it again"
        )

    def _as_refusal(self, error: asyncpg.CheckViolationError, parts: list[Any]) -> Exception:
        """The same as the stream's refusal, if it is one of check_json.sql."""
        if error.constraint_name not in REFUSALS:
            return error  # a constraint of the author's own
        return ItemInvalidError(f"{self._where}: {in_a_line(error)}", culprits=[largest(parts)])


class _ItemPlace:
    """An item that is to be changed. With `renews` what is stored gets a new time to live, as if it had been set."""

    def __init__(self, statements: ItemStatements, group_id: str, id: str, renews: bool) -> None:
        self.name = f"item {id!r:.80}"
        self._sql = statements
        self._key = (group_id, id)
        self._renews = renews

    def read(self) -> Statement:
        return self._sql.read, self._key

    def before(self, row: Any) -> str | None:
        data, _version, _created_at, is_live = row
        return data if is_live else None

    def write(self, row: Any, text: str) -> Statement:
        if row is None:
            return self._sql.insert, (*self._key, text)
        sql = self._sql.renew if self._renews or self.before(row) is None else self._sql.keep
        return sql, (*self._key, text, row[1], row[2])


async def recheck(lend: Lend, subject: str | None, stream: str | None, group_id: str | None) -> None:
    """Have the rules asked again for the subscriptions that match, once what is lent is committed.

    A subject that Postgres has no text for is about all. Raises StreamUnknownError and KeyInvalidError.
    """
    group_id = None if group_id is None else checked_key("group id", group_id)
    if subject is not None:
        subject = str(subject)  # as the authentication's is
        if "\0" in subject or subject != subject.encode(errors="replace").decode():
            subject = None
    if stream is not None and not isinstance(stream, str):
        raise StreamUnknownError(f"no stream is named {shown(stream)}")
    try:
        await ask(lend, True, f"select streams.recheck($1, $2, $3), {TRANSACTION}", subject, stream, group_id)
    except asyncpg.UndefinedObjectError as error:
        raise StreamUnknownError(str(error)) from error


def _checked_version(version: Any) -> int:
    if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version <= VERSION_MAX:
        raise invalid(f"if_version is an item's version, or 0 for none, not {shown(version)}", version)
    return version
