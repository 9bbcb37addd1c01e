"""A change of a stored value by a function of what is there: read, changed in Python, written if nothing came between.

In a transaction, and in autocommit: whoever finds that another was quicker begins again, with what is there now. In a
transaction the second try has the row locked, and so is the last but one of a value that is deleted meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from tidelog.errors import ItemConflictError
from tidelog.json_text import parse
from tidelog.store.asking import Lend, Lendable, ask_together

# In autocommit one of those that are at it gets through each time, and they are as many as there are connections, in
# all processes. Who has lost several times lets others go first.
TRIES_MAX = 100
TRIES_AT_ONCE = 5
PAUSE_SECONDS = 0.002  # for each try

Statement = tuple[str, Sequence[Any]]  # and its parameters


class Place(Protocol):
    """Where the value is, as statements."""

    name: str  # in messages

    def read(self) -> Statement:
        """For the row that is there; " for update" may be added."""
        ...

    def before(self, row: Any) -> str | None:
        """The value's text in the row that was read; None if to readers there is none."""
        ...

    def write(self, row: Any, text: str) -> Statement:
        """Store `text` if the row is as it was read, or is still not there (None).

        It answers a row, whose last column is the transaction's id, or none, if another was quicker.
        """
        ...


class Changed(NamedTuple):
    """The row that was written, and the value's text as it was before; None if there was none."""

    row: Any
    before: str | None


# From what is there, which it may take for its own, to the text that is to be stored. Called again when another was
# quicker.
Make = Callable[[Any], str]


async def change(lend: Lend, place: Place, make: Make) -> Changed:
    """Raises what `make` raises, and ItemConflictError if others were quicker again and again."""

    async def use(connection: Lendable, note_transaction: Callable[[int], None]) -> Changed | Exception:
        for number in range(TRIES_MAX):
            if number > TRIES_AT_ONCE:
                await asyncio.sleep(PAUSE_SECONDS * number * random.random())  # noqa: S311 - no secret
            try:
                changed = await _try(connection, is_locking=number > 0)
            except _RefusedError as refused:
                return refused.reason
            if changed is not None:
                note_transaction(changed.row[-1])
                return changed
        return ItemConflictError(f"{place.name} was changed by others {TRIES_MAX} times while it was to be updated")

    async def _try(connection: Lendable, *, is_locking: bool) -> Changed | None:
        sql, parameters = place.read()
        rows = await connection.fetch(sql + (" for update" if is_locking else ""), *parameters)
        row = rows[0] if rows else None
        before = None if row is None else place.before(row)
        try:
            text = make(None if before is None else parse(before))
        except Exception as error:
            raise _RefusedError(error) from None
        sql, parameters = place.write(row, text)
        written = await connection.fetch(sql, *parameters)
        return Changed(written[0], before) if written else None

    outcome = await ask_together(lend, True, use)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


class _RefusedError(Exception):
    """What `make` raised, which is not the connection's fault."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason
