"""What context.state keeps: JSON values in streams.context_state, through the connection that a step has.

Where steps react to it, a change makes a job for each of them, in its own statement: in its transaction, like an event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tidelog.errors import ItemConflictError, OperationInvalidError, shown
from tidelog.json_text import parse
from tidelog.model import edits
from tidelog.model.reaction import STATE_TOPIC
from tidelog.store.asking import Lend, ask
from tidelog.store.changing import TRIES_MAX, Statement, change
from tidelog.store.item_json import check_size, checked_key, to_json

# ruff: noqa: S608 - the texts are put together of constants
GET = "select value::text from streams.context_state where group_id = $1 and key = $2"
SET = (
    "insert into streams.context_state as state (group_id, key, value) values ($1, $2, $3::text::jsonb) "
    "on conflict (group_id, key) do update set value = excluded.value, updated_at = excluded.updated_at "
    "returning value::text, streams.transaction_id()"
)
# With what it was. It answers nothing if the value was made while one looked: then there is something to be locked.
REPLACE = (
    "insert into streams.context_state as state (group_id, key, value) "
    "select $1, $2, $3::text::jsonb from (select count(*) from before) as looked "
    "on conflict (group_id, key) do update set value = excluded.value, updated_at = excluded.updated_at "
    "where exists (select from before) "
    "returning group_id, key, (select value from before) as old, value as new"
)
BEFORE = "before as materialized (select value from streams.context_state where group_id = $1 and key = $2 for update)"
GET_GROUP = "select value::text from streams.context_state where group_id = $1 order by key"
# From group to group by the key, whatever they hold.
LIST_GROUPS = (
    "with recursive groups (group_id) as ("
    "(select group_id from streams.context_state order by group_id limit 1) union all "
    "select (select state.group_id from streams.context_state as state where state.group_id > groups.group_id "
    "order by state.group_id limit 1) from groups where groups.group_id is not null) "
    "select group_id from groups where group_id is not null"
)

# What a write leaves to be told of, and what it answers.
_CHANGED = "returning group_id, key, {old} as old, {new} as new"
_ANSWER = "select {answer}::text, streams.transaction_id() from changed"
# A key's changes are handled one after the other: two keys that begin alike may wait for each other, and that is all.
JOB_KEY_LENGTH_MAX = 512
_JOBS = (
    "bell as materialized (select streams.ring_workers() where exists (select from changed)), "
    "jobs as (insert into streams.step_job (step, topic, key, input, trace_id, due_at) "
    f"select watcher.step, '{STATE_TOPIC}', left(group_id || '/' || changed.key, {JOB_KEY_LENGTH_MAX}), "
    "jsonb_build_object('type', 'state', 'group_id', group_id, 'item_id', changed.key, 'old_value', old, "
    "'new_value', new), ${trace}::text, clock_timestamp() + watcher.delay * interval '1 second' "
    "from changed cross join bell cross join unnest(${steps}::text[], ${keys}::text[], ${delays}::float8[]) "
    "as watcher (step, key, delay) where watcher.key is null or watcher.key = changed.key)"
)

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


class Watcher(NamedTuple):
    """A step that reacts to changes of the state: of one group and one key, if they are named."""

    step: str
    group_id: str | None = None
    key: str | None = None
    delay_seconds: float = 0.0


class ContextState:
    """Raises KeyInvalidError and ItemInvalidError before it takes a connection; else the database's errors.

    `trace_id` is of the run that writes: those who react go on with it.
    """

    def __init__(self, *, size_max_bytes: int, watchers: Sequence[Watcher] = ()) -> None:
        self._size_max_bytes = size_max_bytes
        self._watchers = watchers

    async def get(self, lend: Lend, group_id: str, key: str) -> Any:
        return _first(await ask(lend, False, GET, *_place(group_id, key)))

    async def set(self, lend: Lend, trace_id: str, group_id: str, key: str, value: Any) -> Any:
        group_id, key = _place(group_id, key)
        if self._watching(group_id, key):
            return (await self.replace(lend, trace_id, group_id, key, value))[1]
        return _first(await ask(lend, True, SET, group_id, key, self._text_of(value)))

    async def replace(self, lend: Lend, trace_id: str, group_id: str, key: str, value: Any) -> tuple[Any, Any]:
        """As `set`; returns what was there, and what is."""
        group_id, key = _place(group_id, key)
        sql, parameters = _told(
            REPLACE,
            (group_id, key, self._text_of(value)),
            "select old::text, new::text, streams.transaction_id() from changed",
            trace_id,
            self._watching(group_id, key),
            BEFORE,
        )
        for _ in range(TRIES_MAX):
            if rows := await ask(lend, True, sql, *parameters):
                return _value(rows[0][0]), _value(rows[0][1])
        raise ItemConflictError(
            f"context.state {key!r:.80} was made and deleted by others all the time while it was set"
        )

    async def exchange(
        self, lend: Lend, trace_id: str, group_id: str, key: str, make: Callable[[Any], Any]
    ) -> tuple[Any, Any]:
        """Set the value to what `make` makes of it (None if there is none); returns it before and after.

        `make` may be called several times.
        """
        group_id, key = _place(group_id, key)
        place = _StatePlace(group_id, key, trace_id, self._watching(group_id, key))
        changed = await change(lend, place, lambda before: self._text_of(make(before)))
        return _value(changed.before), _value(changed.row[0])

    async def update(self, lend: Lend, trace_id: str, group_id: str, key: str, operations: Any) -> tuple[Any, Any]:
        """Change an object by Motia's operations; see edits.updated. What is missing is made, also the object.

        Raises OperationInvalidError.
        """

        def make(before: Any) -> Any:
            if before is not None and not isinstance(before, dict):
                raise OperationInvalidError(f"what is updated must be an object, and is {shown(before)}")
            return edits.updated(before, operations)

        return await self.exchange(lend, trace_id, group_id, key, make)

    async def delete(self, lend: Lend, trace_id: str, group_id: str, key: str) -> Any:
        group_id, key = _place(group_id, key)
        sql, parameters = _told(
            "delete from streams.context_state where group_id = $1 and key = $2 "
            + _CHANGED.format(old="value", new="null::jsonb"),
            (group_id, key),
            _ANSWER.format(answer="old"),
            trace_id,
            self._watching(group_id, key),
        )
        return _first(await ask(lend, True, sql, *parameters))

    async def clear(self, lend: Lend, trace_id: str, group_id: str) -> None:
        group_id = checked_key("group id", group_id)
        sql, parameters = _told(
            "delete from streams.context_state where group_id = $1 " + _CHANGED.format(old="value", new="null::jsonb"),
            (group_id,),
            "select streams.transaction_id() where exists (select from changed)",
            trace_id,
            self._watching(group_id),
        )
        await ask(lend, True, sql, *parameters)

    async def get_group(self, lend: Lend, group_id: str) -> list[Any]:
        rows = await ask(lend, False, GET_GROUP, checked_key("group id", group_id))
        return [parse(row[0]) for row in rows]

    async def list_groups(self, lend: Lend) -> list[str]:
        """The ids of the groups that have values, in their order."""
        return [row[0] for row in await ask(lend, False, LIST_GROUPS)]

    def _text_of(self, value: Any) -> str:
        text, plain = to_json(value)
        check_size("context.state", text, [plain], self._size_max_bytes)
        return text

    def _watching(self, group_id: str, key: str | None = None) -> list[Watcher]:
        """Those for changes there; of the whole group, if no key is said."""
        return [
            one
            for one in self._watchers
            if one.group_id in (None, group_id) and (key is None or one.key in (None, key))
        ]


class _StatePlace:
    """A value that is to be changed. It is told by itself whether it is as it was: one that came again is the same."""

    def __init__(self, group_id: str, key: str, trace_id: str, watchers: Sequence[Watcher]) -> None:
        self.name = f"context.state {key!r:.80}"
        self._key = (group_id, key)
        self._trace_id = trace_id
        self._watchers = watchers

    def read(self) -> Statement:
        return GET, self._key

    def before(self, row: Any) -> str | None:
        text: str = row[0]
        return text

    def write(self, row: Any, text: str) -> Statement:
        if row is None:
            sql = (
                "insert into streams.context_state (group_id, key, value) values ($1, $2, $3::text::jsonb) "
                "on conflict (group_id, key) do nothing " + _CHANGED.format(old="null::jsonb", new="value")
            )
            parameters: tuple[Any, ...] = (*self._key, text)
        else:
            sql = (
                "update streams.context_state set value = $3::text::jsonb, updated_at = default "
                "where group_id = $1 and key = $2 and value = $4::text::jsonb "
                + _CHANGED.format(old="$4::text::jsonb", new="value")
            )
            parameters = (*self._key, text, row[0])
        return _told(sql, parameters, _ANSWER.format(answer="new"), self._trace_id, self._watchers)


def _told(
    write: str,
    parameters: tuple[Any, ...],
    answer: str,
    trace_id: str,
    watchers: Sequence[Watcher],
    *before: str,
) -> Statement:
    """`write`, then `answer`; and, for the watchers, their jobs between. `before` are what `write` uses."""
    parts = [*before, f"changed as ({write})"]
    if watchers:
        place = len(parameters)
        parts.append(_JOBS.format(trace=place + 1, steps=place + 2, keys=place + 3, delays=place + 4))
        columns = zip(*((one.step, one.key, one.delay_seconds) for one in watchers), strict=True)
        parameters = (*parameters, trace_id, *map(list, columns))
    return f"with {', '.join(parts)} {answer}", parameters


def _place(group_id: str, key: str) -> tuple[str, str]:
    return checked_key("group id", group_id), checked_key("key", key)


def _first(rows: Any) -> Any:
    return _value(rows[0][0] if rows else None)


def _value(text: str | None) -> Any:
    value = None if text is None else parse(text)
    return StateObject(value) if isinstance(value, Mapping) else value
