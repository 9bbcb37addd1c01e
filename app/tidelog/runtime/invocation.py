"""One occasion for a step to run: what its handler is given, and what becomes of what it returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from tidelog.errors import StepTimedOutError
from tidelog.runtime.watch import Caller
from tidelog.store.asking import Lend

Outcome_co = TypeVar("Outcome_co", covariant=True)


class Invocation(Caller, Protocol[Outcome_co]):
    """Made by what serves a trigger, for one run of a step and its retries. Its caller waits for the outcome."""

    trace_id: str
    auth: Any  # who caused it, as the authentication says; None if it is anybody
    # The last thing in the step's transaction, if there is one to be done; what it raises rolls that back.
    ending: Callable[[Lend], Awaitable[None]] | None

    def given(self) -> Any:
        """The handler's first argument, made anew for each try, as handlers change it. Raises if there is none."""
        ...

    def accept(self, returned: Any) -> Outcome_co:
        """What `returned` comes to, before it is committed. Raises if it is nothing that can be used."""
        ...

    def committed(self, transaction: int | None) -> None:
        """It is committed in this transaction; None if nothing was written. Not called where that isn't known."""
        ...

    async def give_up(self, error: StepTimedOutError) -> None:
        """There will be no outcome: the handler goes on after its time, though it was cancelled."""
        ...
