"""`context.state`: JSON values at a group and a key, for what steps keep and nobody subscribes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from tidelog.runtime.names import no_attribute
from tidelog.runtime.stream_calls import Run
from tidelog.store.asking import Lend
from tidelog.store.context_state import ContextState


class StateCalls:
    """As Motia 0.17 has them. The calls are like those on streams: in the step's transaction, and in their order."""

    __slots__ = ("_lend", "_run", "_state", "_trace_id")

    def __init__(self, state: ContextState, lend: Lend, run: Run, trace_id: str) -> None:
        self._state = state
        self._lend = lend
        self._run = run
        self._trace_id = trace_id

    def get(self, group_id: str, key: str) -> Any:
        """The value, or None. An object also answers to `["data"]`, by which Motia's Python files get at it."""
        return self._run(self._state.get(self._lend, group_id, key))

    def set(self, group_id: str, key: str, value: Any) -> Any:
        """Store any JSON value; returns it."""
        return self._run(self._state.set(self._lend, self._trace_id, group_id, key, value))

    def update(self, group_id: str, key: str, operations: Any) -> Any:
        """Change an object, in one piece, whoever else does; what is missing is made. Returns it as it is stored.

        An operation is {"type": "set" | "merge" | "increment" | "decrement" | "remove", "path", "value" | "by"}.
        """
        return self._run(self._update(group_id, key, operations, is_asked_for_both=False))

    def exchange(self, group_id: str, key: str, make: Callable[[Any], Any]) -> Any:
        """Set the value to what `make` answers for the one that is there, or None; returns both, as Motia 1.0's set().

        That is {"old_value", "new_value"}. `make` may be called several times.
        """
        return self._run(self._exchange(group_id, key, make))

    def replace(self, group_id: str, key: str, value: Any) -> Any:
        """As `set`, and returns both, as Motia 1.0's set()."""
        return self._run(self._replace(group_id, key, value))

    def exchange_by(self, group_id: str, key: str, operations: Any) -> Any:
        """As `update`, and returns both, as Motia 1.0's update()."""
        return self._run(self._update(group_id, key, operations, is_asked_for_both=True))

    def delete(self, group_id: str, key: str) -> Any:
        """Delete the value; returns it as it was, or None."""
        return self._run(self._state.delete(self._lend, self._trace_id, group_id, key))

    def clear(self, group_id: str) -> Any:
        """Delete all values of the group."""
        return self._run(self._state.clear(self._lend, self._trace_id, group_id))

    def get_group(self, group_id: str) -> Any:
        """The values of the group, a list in the order of their keys."""
        return self._run(self._state.get_group(self._lend, group_id))

    getGroup = get_group  # noqa: N815 - Motia's spelling, of 0.17,
    list = get_group  # and of 1.0

    def list_groups(self) -> Any:
        """The ids of the groups that have values, in their order."""
        return self._run(self._state.list_groups(self._lend))

    if not TYPE_CHECKING:  # to type checkers it would say that there is everything

        def __getattr__(self, name: str) -> NoReturn:
            raise no_attribute(self, "context.state", name, OPERATIONS)

    async def _update(self, group_id: str, key: str, operations: Any, *, is_asked_for_both: bool) -> Any:
        before, after = await self._state.update(self._lend, self._trace_id, group_id, key, operations)
        return _both(before, after) if is_asked_for_both else after

    async def _replace(self, group_id: str, key: str, value: Any) -> dict[str, Any]:
        return _both(*await self._state.replace(self._lend, self._trace_id, group_id, key, value))

    async def _exchange(self, group_id: str, key: str, make: Callable[[Any], Any]) -> dict[str, Any]:
        return _both(*await self._state.exchange(self._lend, self._trace_id, group_id, key, make))


def _both(before: Any, after: Any) -> dict[str, Any]:
    return {"old_value": before, "new_value": after}


OPERATIONS = tuple(name for name in vars(StateCalls) if not name.startswith("_"))
