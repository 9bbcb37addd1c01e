"""`context.streams.<name>`: the operations on a stream's items, as a handler calls them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from tidelog.errors import ItemInvalidError
from tidelog.runtime.names import no_attribute
from tidelog.store.asking import Lend
from tidelog.store.items import Items

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class StreamCalls:
    """Every item is a dict with its `id` (see tidelog.model.item). The calls begin at once, like tasks."""

    __slots__ = ("_items", "_lend", "_run")

    def __init__(self, items: Items, lend: Lend, run: Run) -> None:
        self._items = items
        self._lend = lend
        self._run = run  # Calls; or, for plain handlers, waits for the answer

    def get(self, group_id: str, id: str) -> Any:
        """The item, or None."""
        return self._run(self._items.get(self._lend, group_id, id))

    def set(self, group_id: str, id: str, data: Any, *, if_version: int | None = None, ttl: float | None = None) -> Any:
        """Create or replace the item; returns it as it is stored. Raises ItemInvalidError.

        With `if_version` only if it has that version, or, 0, if there is none: else ItemConflictError. With `ttl` it is
        deleted after so many seconds, unless it is set again; 0 is never, also where the stream has a `ttl` of its own.
        """
        return self._run(self._items.set(self._lend, group_id, id, data, if_version=if_version, ttl=ttl))

    def create(self, group_id: str, id: str, data: Any, *, ttl: float | None = None) -> Any:
        """Create the item; returns it. Raises ItemConflictError if there is one."""
        return self._run(self._items.create(self._lend, group_id, id, data, ttl=ttl))

    def delete(self, group_id: str, id: str, *, if_version: int | None = None) -> Any:
        """Delete the item; returns it as it was, or None. With `if_version`, ItemConflictError if it has another."""
        return self._run(self._items.delete(self._lend, group_id, id, if_version=if_version))

    def update(self, group_id: str, id: str, operations: Any) -> Any:
        """Change the item, in one piece, whoever else does; what is missing is made. Returns it as it is stored.

        An operation is {"type": "set" | "merge" | "increment" | "decrement" | "remove", "path", "value" | "by"}.
        """
        return self._run(self._items.update(self._lend, group_id, id, operations))

    def exchange(
        self, group_id: str, id: str, make: Callable[[dict[str, Any] | None], Any], *, renews: bool = True
    ) -> Any:
        """Set the item to what `make` answers for the one that is there, or None; returns both, as Motia 1.0's set().

        That is {"old_value", "new_value"}. `make` may be called several times. `renews`: its `ttl` begins anew.
        """
        return self._run(self._exchange(group_id, id, make, renews))

    def patch(self, group_id: str, id: str, operations: Any) -> Any:
        """Change the item by a JSON Patch (RFC 6902), in one piece; returns it as it is stored."""
        return self._run(self._items.patch(self._lend, group_id, id, operations))

    def merge_patch(self, group_id: str, id: str, patch: Any) -> Any:
        """Change the item by a JSON Merge Patch (RFC 7396), in one piece; returns it as it is stored."""
        return self._run(self._items.merge_patch(self._lend, group_id, id, patch))

    def get_group(self, group_id: str, *, limit: int | None = None, after: Any = None, order: str = "asc") -> Any:
        """The items of the group, oldest first, or newest ("desc"): all, or a page behind the item `after`."""
        return self._run(self._items.list(self._lend, group_id, limit=limit, after=after, order=order))

    getGroup = get_group  # noqa: N815 - Motia's spelling, of 0.17,
    list = get_group  # and of 1.0

    def list_groups(self, *, limit: int | None = None, after: str | None = None) -> Any:
        """The ids of the groups that have items, in their order."""
        return self._run(self._items.list_groups(self._lend, limit=limit, after=after))

    def list_all(self, *, limit: int | None = None, after: Any = None) -> Any:
        """The items of all groups, by group and id."""
        return self._run(self._items.list_all(self._lend, limit=limit, after=after))

    def count(self, group_id: str | None = None, *, where: Any = None) -> Any:
        """How many items there are in the group, or in all; of those that `where` describes."""
        return self._run(self._items.count(self._lend, group_id, where=where))

    def clear(self, group_id: str) -> Any:
        """Delete all items of the group, as one change of the stream; how many there were."""
        return self._run(self._items.clear(self._lend, group_id))

    def query(
        self,
        group_id: str | None = None,
        *,
        where: Any = None,
        order_by: Any = None,
        limit: int | None = None,
    ) -> Any:
        """The items of the group, or of all, that `where` describes: `{"status": "open", "done": {"gte": 50}}`."""
        return self._run(self._items.query(self._lend, group_id, where=where, order_by=order_by, limit=limit))

    def send(self, channel: Mapping[str, Any], event: Mapping[str, Any]) -> Any:
        """Send `event`, {"type", "data"}, to the subscribers of `channel`, {"groupId", "id"?}."""
        return self._run(self._send(channel, event))

    if not TYPE_CHECKING:  # to type checkers it would say that there is everything

        def __getattr__(self, name: str) -> NoReturn:
            raise no_attribute(self, "a stream", name, OPERATIONS)

    async def _exchange(self, group_id: str, id: str, make: Callable[[Any], Any], renews: bool) -> dict[str, Any]:
        before, after = await self._items.exchange(self._lend, group_id, id, make, renews=renews)
        return {"old_value": before, "new_value": after}

    async def _send(self, channel: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        if not isinstance(channel, Mapping) or "groupId" not in channel:
            raise ItemInvalidError(f'send: a channel is {{"groupId": ..., "id"?: ...}}, not {channel!r:.80}')
        if not isinstance(event, Mapping) or "type" not in event:
            raise ItemInvalidError(f'send: an event is {{"type": ..., "data": ...}}, not {event!r:.80}')
        await self._items.send(self._lend, channel["groupId"], channel.get("id"), event["type"], event.get("data"))


OPERATIONS = tuple(name for name in vars(StreamCalls) if not name.startswith("_"))
