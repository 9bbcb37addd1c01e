"""What context.state keeps: JSON values in streams.context_state, through the connection that a step has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidelog.json_text import parse
from tidelog.store.asking import Lend, ask
from tidelog.store.item_json import check_size, checked_key, to_json

GET = "select value::text from streams.context_state where group_id = $1 and key = $2"
SET = (
    "insert into streams.context_state as state (group_id, key, value) values ($1, $2, $3::text::jsonb) "
    "on conflict (group_id, key) do update set value = excluded.value, updated_at = excluded.updated_at "
    "returning value::text, streams.transaction_id()"
)
DELETE = (
    "delete from streams.context_state where group_id = $1 and key = $2 returning value::text, streams.transaction_id()"
)
CLEAR = "delete from streams.context_state where group_id = $1 returning streams.transaction_id()"
GET_GROUP = "select value::text from streams.context_state where group_id = $1 order by key"

DATA = "data"


class StateObject(dict[str, Any]):
    """A stored object. It is what was set; and without a field `data` of its own, `["data"]` is the object, too.

    Motia's documents have `get` answer what was set, and its Python runner wraps an object as {"data": ...}: files are
    written for either.
    """

    __slots__ = ()

    def __missing__(self, key: str) -> Any:
        if key == DATA:
            return dict(self)
        raise KeyError(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 - dict's own doesn't ask __missing__

    def __contains__(self, key: object) -> bool:
        return key == DATA or super().__contains__(key)


class ContextState:
    """Raises KeyInvalidError and ItemInvalidError before it takes a connection; else the database's errors."""

    def __init__(self, *, size_max_bytes: int) -> None:
        self._size_max_bytes = size_max_bytes

    async def get(self, lend: Lend, group_id: str, key: str) -> Any:
        return _first(await ask(lend, False, GET, *_place(group_id, key)))

    async def set(self, lend: Lend, group_id: str, key: str, value: Any) -> Any:
        text, plain = to_json(value)
        check_size("context.state", text, [plain], self._size_max_bytes)
        return _first(await ask(lend, True, SET, *_place(group_id, key), text))

    async def delete(self, lend: Lend, group_id: str, key: str) -> Any:
        return _first(await ask(lend, True, DELETE, *_place(group_id, key)))

    async def clear(self, lend: Lend, group_id: str) -> None:
        await ask(lend, True, CLEAR, checked_key("group id", group_id))

    async def get_group(self, lend: Lend, group_id: str) -> list[Any]:
        rows = await ask(lend, False, GET_GROUP, checked_key("group id", group_id))
        return [parse(row[0]) for row in rows]


def _place(group_id: str, key: str) -> tuple[str, str]:
    return checked_key("group id", group_id), checked_key("key", key)


def _first(rows: Any) -> Any:
    value = parse(rows[0][0]) if rows else None
    return StateObject(value) if isinstance(value, Mapping) else value
