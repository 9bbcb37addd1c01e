"""Reading many items of one stream: groups, pages of them, and queries."""

from __future__ import annotations

import builtins
from typing import Any

from tidelog.errors import ItemConflictError
from tidelog.json_text import parse
from tidelog.model.item import Item
from tidelog.model.stream import Stream
from tidelog.store.asking import Lend, ask
from tidelog.store.conditions import Conditions, checked_limit, checked_order, invalid, order_of
from tidelog.store.item_json import checked_key
from tidelog.store.item_statements import COLUMNS, LIVE, ItemStatements


class ItemPages:
    """What of Items reads many. `limit` is None for all, or how many; `after` goes on behind the last that was read."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._where = f"stream {stream.name!r}"
        self._sql = ItemStatements(stream)

    async def list(
        self,
        lend: Lend,
        group_id: str,
        *,
        limit: int | None = None,
        after: Item | str | None = None,
        order: str = "asc",
    ) -> builtins.list[Item]:
        """The group's items, oldest first, or newest ("desc").

        `after` is an item, or its id, which must be there still. Raises ItemConflictError if it isn't.
        """
        group_id = checked_key("group id", group_id)
        is_descending = checked_order(order)
        if limit is None and after is None and not is_descending:
            rows = await ask(lend, False, self._sql.list, group_id)
        else:
            conditions = Conditions(group_id)
            conditions.add(f"group_id = $1 and {LIVE}")
            if after is not None:
                created_at, id = await self._place_of(lend, group_id, after)
                than = "<" if is_descending else ">"
                place = f"{conditions.bind(created_at, 'timestamptz')}, {conditions.bind(id, 'text')}"
                conditions.add(f"(created_at, id) {than} ({place})")
            order_by = "created_at desc, id desc" if is_descending else "created_at, id"
            rows = await self._select(lend, conditions, order_by, limit)
        return [self._item(group_id, row) for row in rows]

    async def list_all(
        self, lend: Lend, *, limit: int | None = None, after: Item | tuple[str, str] | None = None
    ) -> builtins.list[Item]:
        """The items of all groups, group after group, by their keys. `after` is an item, or its group id and id."""
        place: Any = ("", "") if after is None else after  # no key is empty
        if isinstance(after, Item):
            place = (after.group_id, after["id"])
        elif not isinstance(place, tuple | list) or len(place) != 2:
            raise invalid(f"after is an item, or its (group id, id), not {after!r:.80}", after)
        if after is not None:
            place = (checked_key("group id", place[0]), checked_key("id", place[1]))
        rows = await ask(lend, False, self._sql.list_all, *place, checked_limit(limit))
        return [self._item(row[3], row) for row in rows]

    async def list_groups(
        self, lend: Lend, *, limit: int | None = None, after: str | None = None
    ) -> builtins.list[str]:
        """The ids of the groups that have items, in their order."""
        begin = "" if after is None else checked_key("group id", after)
        return [row[0] for row in await ask(lend, False, self._sql.groups, begin, checked_limit(limit))]

    async def count(self, lend: Lend, group_id: str | None = None, *, where: Any = None) -> int:
        """How many items a group has, or the stream; of those that `where` describes, see query."""
        if where is None:
            parameters = () if group_id is None else (checked_key("group id", group_id),)
            sql = self._sql.count_all if group_id is None else self._sql.count_group
            rows = await ask(lend, False, sql, *parameters)
        else:
            conditions = self._conditions(group_id, where)
            sql = f"select count(*) from {self._sql.table} where {conditions}"  # noqa: S608 - see Conditions
            rows = await ask(lend, False, sql, *conditions.parameters)
        return int(rows[0][0])

    async def clear(self, lend: Lend, group_id: str) -> int:
        """Delete all items of a group; how many there were."""
        rows = await ask(lend, True, self._sql.clear, checked_key("group id", group_id))
        return int(rows[0][0])

    async def query(
        self,
        lend: Lend,
        group_id: str | None = None,
        *,
        where: Any = None,
        order_by: str | builtins.list[str] | None = None,
        limit: int | None = None,
    ) -> builtins.list[Item]:
        """The items of a group, or of all, that `where` describes: see the page of tidelog.runtime."""
        conditions = self._conditions(group_id, where)
        rows = await self._select(lend, conditions, order_of(order_by), limit)
        return [self._item(row[3], row) for row in rows]

    def _conditions(self, group_id: str | None, where: Any) -> Conditions:
        conditions = Conditions()
        if group_id is not None:
            conditions.add(f"group_id = {conditions.bind(checked_key('group id', group_id), 'text')}")
        conditions.add_where(where)
        conditions.add(LIVE)
        return conditions

    async def _select(self, lend: Lend, conditions: Conditions, order_by: str, limit: int | None) -> Any:
        text = f"select {COLUMNS}, group_id from {self._sql.table} where {conditions} order by {order_by}"  # noqa: S608
        if checked_limit(limit) is not None:
            text += f" limit {conditions.bind(limit, 'bigint')}"
        return await ask(lend, False, text, *conditions.parameters)

    async def _place_of(self, lend: Lend, group_id: str, after: Item | str) -> tuple[Any, str]:
        if isinstance(after, Item):
            return after.created_at, after["id"]
        id = checked_key("after", after)
        rows = await ask(lend, False, self._sql.place, group_id, id)
        if not rows:
            raise ItemConflictError(
                f"there is no item {id!r:.80} to go on after; if it was deleted meanwhile, give the item itself as "
                "`after`, and not its id"
            )
        return rows[0][0], id

    def _item(self, group_id: str, row: Any) -> Item:
        """Of a row of COLUMNS."""
        return Item(parse(row[0]), self._stream.name, group_id, row[1], row[2])
