"""Whether stored items fit a stream's new schema; looked at by a migration before the database takes the schema.

A change is compatible if every stored item that fits the schema of before fits the new one. Items that didn't fit
before (SQL isn't checked) are not this change's matter, nor are those of a change that was accepted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from tidelog.errors import DeclarationError, ItemInvalidError
from tidelog.json_text import parse
from tidelog.model.stream import Stream
from tidelog.store.failure import is_of_a_row

# A table of so many items is looked at as a whole, a larger one by a sample: half a second of small items.
ITEMS_MAX = 20_000
# For all streams of a migration, whose transaction may hold locks meanwhile; of each at least one batch is looked at.
SECONDS_MAX = 10.0
BATCH_ITEMS_MAX = 500
BATCH_BYTES_MAX = 1_048_576  # as stored; a text may be much longer, but not than an item may be
SHOWN_MAX = 5  # of those that don't fit
KEY_SHOWN_MAX = 80

_Key = tuple[str, str, int]  # group id, id, bytes as stored


@dataclass(slots=True)
class Found:
    """What the look at a stream's items found."""

    total: int  # items of the table; of a large one the planner's estimate
    looked_at: int = 0
    misfits: int = 0
    unreadable: int = 0
    shown: list[str] = field(default_factory=list)

    @property
    def is_all(self) -> bool:
        return self.looked_at >= self.total

    def __str__(self) -> str:
        if self.is_all:
            return f"{self.misfits} of its {self.total:,} items"
        return f"{self.misfits} of the {self.looked_at:,} items that were looked at (of about {self.total:,})"


def look_at_items(connection: Connection, stream: Stream, stored: Any, ends_at: float) -> Found:
    """Which items that fit the JSON Schema `stored` don't fit the stream. The table must be there.

    ITEMS_MAX at most, and until `ends_at` (time.monotonic), a batch more or less. An item that can't be read is
    counted, and is no misfit.
    """
    before = _stream_of_before(stream.name, stored)
    total, keys = _keys(connection, stream.table)
    found = Found(total)
    for batch in _batches(keys):
        for group_id, item_id, text in _read(connection, stream.table, batch, found):
            value = parse(text)
            why = _misfit(stream, value, item_id)
            if why is None or (before is not None and _misfit(before, value, item_id) is not None):
                continue
            found.misfits += 1
            if len(found.shown) < SHOWN_MAX:
                found.shown.append(f"group {_clip(group_id)}, id {_clip(item_id)}: {why}")
        found.looked_at += len(batch)
        if time.monotonic() >= ends_at:
            break
    return found


def _stream_of_before(name: str, stored: Any) -> Stream | None:
    """None if the schema can't be compiled any more: then nothing is known of what fitted it."""
    try:
        return Stream(name, stored)
    except DeclarationError:
        return None


def _misfit(stream: Stream, value: Any, item_id: str) -> str | None:
    if not isinstance(value, dict):
        return "it is no JSON object"
    try:
        stream.check(value, item_id)
    except ItemInvalidError as error:
        return "; ".join(f"{one.path or 'the item'}: {one.message}" for one in error.violations[:2]) or str(error)
    except Exception as error:  # of a validator that the author wrote
        return f"its validator raised {type(error).__name__}: {error}"
    return None


def _keys(connection: Connection, table: str) -> tuple[int, Sequence[_Key]]:
    """How many items there are, and the keys of those to look at: all, or those of pages that are drawn."""
    columns = f"select group_id, id, pg_column_size(data) from streams.{table}"  # noqa: S608 - a validated identifier
    rows = connection.exec_driver_sql(f"{columns} limit {ITEMS_MAX + 1}").all()
    if len(rows) <= ITEMS_MAX:
        return len(rows), [tuple(row) for row in rows]
    # The planner looks at the table's size as it is now, also where there are no statistics yet.
    plan = connection.exec_driver_sql(f"explain (format json) select from streams.{table}").scalar_one()
    plan = json.loads(plan) if isinstance(plan, str) else plan
    total = max(len(rows), int(plan[0]["Plan"]["Plan Rows"]))
    percent = min(100.0, 100.0 * ITEMS_MAX / total)
    sample = connection.exec_driver_sql(f"{columns} tablesample system ({percent:.6f}) limit {ITEMS_MAX}").all()
    return total, [tuple(row) for row in sample or rows[:ITEMS_MAX]]


def _batches(keys: Sequence[_Key]) -> Iterator[Sequence[_Key]]:
    batch: list[_Key] = []
    size = 0
    for key in keys:
        if batch and (len(batch) == BATCH_ITEMS_MAX or size + key[2] > BATCH_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(key)
        size += key[2]
    if batch:
        yield batch


def _read(connection: Connection, table: str, batch: Sequence[_Key], found: Found) -> Sequence[Any]:
    """Group id, id and JSON text of each; an item that can't be read is left out, and counted."""
    query = (
        f"select t.group_id, t.id, t.data::text from streams.{table} t "  # noqa: S608
        "join unnest($1::text[], $2::text[]) as wanted (group_id, id) using (group_id, id)"
    )
    try:
        with connection.begin_nested():
            parameters = ([key[0] for key in batch], [key[1] for key in batch])
            return connection.exec_driver_sql(query, parameters).all()
    except (DBAPIError, UnicodeDecodeError) as error:
        if not is_of_a_row(error):
            raise
    if len(batch) == 1:
        found.unreadable += 1
        return []
    half = len(batch) // 2
    return [*_read(connection, table, batch[:half], found), *_read(connection, table, batch[half:], found)]


def _clip(key: str) -> str:
    return repr(key if len(key) <= KEY_SHOWN_MAX else key[:KEY_SHOWN_MAX] + "...")
