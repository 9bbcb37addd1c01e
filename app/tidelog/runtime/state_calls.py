"""`context.state`: JSON values at a group and a key, for what steps keep and nobody subscribes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from tidelog.runtime.names import no_attribute
from tidelog.runtime.stream_calls import Run
from tidelog.store.asking import Lend
from tidelog.store.context_state import ContextState


class StateCalls:
    """As Motia 0.17 has them. The calls are like those on streams: in the step's transaction, and in their order."""

    __slots__ = ("_lend", "_run", "_state")

    def __init__(self, state: ContextState, lend: Lend, run: Run) -> None:
        self._state = state
        self._lend = lend
        self._run = run

    def get(self, group_id: str, key: str) -> Any:
        """The value, or None. An object also answers to `["data"]`, by which Motia's Python files get at it."""
        return self._run(self._state.get(self._lend, group_id, key))

    def set(self, group_id: str, key: str, value: Any) -> Any:
        """Store any JSON value; returns it."""
        return self._run(self._state.set(self._lend, group_id, key, value))

    def delete(self, group_id: str, key: str) -> Any:
        """Delete the value; returns it as it was, or None."""
        return self._run(self._state.delete(self._lend, group_id, key))

    def clear(self, group_id: str) -> Any:
        """Delete all values of the group."""
        return self._run(self._state.clear(self._lend, group_id))

    def get_group(self, group_id: str) -> Any:
        """The values of the group, a list in the order of their keys."""
        return self._run(self._state.get_group(self._lend, group_id))

    getGroup = get_group  # noqa: N815 - Motia's spelling, of 0.17,
    list = get_group  # and of 1.0

    if not TYPE_CHECKING:  # to type checkers it would say that there is everything

        def __getattr__(self, name: str) -> NoReturn:
            raise no_attribute(self, "context.state", name, OPERATIONS)


OPERATIONS = tuple(name for name in vars(StateCalls) if not name.startswith("_"))
