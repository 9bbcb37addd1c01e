"""`streams` for code that is no step: an application's handlers, workers, scripts."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from tidelog.logs.request import new_trace_id
from tidelog.runtime.context import Streams
from tidelog.runtime.emitting import Emitter
from tidelog.store.asking import Lend
from tidelog.store.items import Items, recheck
from tidelog.store.transaction import which_transaction


class OutsideStreams(Streams):
    """Streams by name, and what else can be done in the same transaction. (One of such a name is `streams["emit"]`.)"""

    def __init__(
        self,
        items: Mapping[str, Items],
        lend: Lend,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        emitter: Emitter,
    ) -> None:
        super().__init__(items, lend, run)
        self._emitter = emitter

    def emit(self, event: Mapping[str, Any]) -> Any:
        """Emit `event`, {"topic", "data", "messageGroupId"?}: every step that subscribes to the topic handles it, once
        this is committed. To be awaited. Raises TopicUnknownError if no step does, and EmitInvalidError.
        """
        return self._run(self._emitter.emit(event, self._lend, new_trace_id()))

    def transaction_id(self) -> Any:
        """The id of the transaction in which these are, which `wait_for` takes once it is committed, as text. To be
        awaited. None if nothing is written so far, and where every call commits by itself.
        """
        return self._run(self._transaction_id())

    async def _transaction_id(self) -> str | None:
        transaction = await which_transaction(self._lend)
        return None if transaction is None else str(transaction)

    def revoke(self, *, subject: str | None = None, stream: str | None = None, group: str | None = None) -> Any:
        """Have the rules asked again, in every server process, for the subscriptions that match; the denied ones end.

        To be awaited. What isn't said matches all. What the rules go by is changed before, or in the same transaction.
        Raises StreamUnknownError and KeyInvalidError.
        """
        return self._run(recheck(self._lend, subject, stream, group))
