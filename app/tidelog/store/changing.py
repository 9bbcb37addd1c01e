"""A change of an item by a function of what is there: read, changed in Python, written if nothing came between.

In a transaction, and in autocommit: whoever finds that another was quicker begins again, with what is there now. In a
transaction the second try has the row locked, and so is the last but one of an item that is deleted meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tidelog.errors import ItemConflictError
from tidelog.json_text import parse
from tidelog.store.asking import Lend, Lendable, ask_together
from tidelog.store.item_statements import ItemStatements

# In autocommit one of those that are at it gets through each time, and they are as many as there are connections.
TRIES_MAX = 100


class Changed(NamedTuple):
    """The row that was written, and the item's text as it was before; None if there was none."""

    row: Any
    before: str | None


# From what is there, which it may take for its own, to the text that is to be stored. Called again when another was
# quicker.
Make = Callable[[dict[str, Any] | None], str]


async def change(
    lend: Lend, statements: ItemStatements, group_id: str, id: str, make: Make, *, renews: bool
) -> Changed:
    """Raises what `make` raises, and ItemConflictError if others were quicker again and again.

    `renews`: what is stored gets a new time to live, as if it had been set.
    """

    async def use(connection: Lendable, note_transaction: Callable[[int], None]) -> Changed | Exception:
        for number in range(TRIES_MAX):
            try:
                changed = await _try(connection, is_locking=number > 0)
            except _RefusedError as refused:
                return refused.reason
            if changed is not None:
                note_transaction(changed.row[-1])
                return changed
        return ItemConflictError(f"item {id!r:.80} was changed by others {TRIES_MAX} times while it was to be updated")

    async def _try(connection: Lendable, *, is_locking: bool) -> Changed | None:
        rows = await connection.fetch(statements.read + (" for update" if is_locking else ""), group_id, id)
        row = rows[0] if rows else None
        before_text = row[0] if row is not None and row[3] else None
        before = None if before_text is None else parse(before_text)
        try:
            text = make(before)
        except Exception as error:
            raise _RefusedError(error) from None
        if row is None:
            written = await connection.fetch(statements.insert, group_id, id, text)
        else:
            statement = statements.renew if renews or before_text is None else statements.keep
            written = await connection.fetch(statement, group_id, id, text, row[1], row[2])
        return Changed(written[0], before_text) if written else None

    outcome = await ask_together(lend, True, use)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


class _RefusedError(Exception):
    """What `make` raised, which is not the connection's fault."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason
