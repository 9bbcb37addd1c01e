"""Statements on a connection that is lent for the length of one operation, and asked again if it was no good."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from tidelog.store.checkout import AskAgainError

Answer = TypeVar("Answer")


class Lendable(Protocol):
    """What of a connection is used here."""

    async def fetch(self, query: str, /, *parameters: Any) -> Sequence[Any]:
        """The rows."""
        ...


class Loan(AbstractAsyncContextManager[Lendable], Protocol):
    """A connection for the length of an operation."""

    def note_transaction(self, transaction: int) -> None:
        """The id of the transaction in which the operation wrote."""
        ...


# Given whether it is for a write.
Lend = Callable[[bool], Loan]


async def ask(lend: Lend, writes: bool, sql: str, *parameters: Any) -> Sequence[Any]:
    """The rows of one statement. The last column of a write's is its transaction's id."""
    lent = lend(writes)  # once, as it counts how often it is asked again
    while True:
        try:
            async with lent as connection:
                rows = await connection.fetch(sql, *parameters)
                if writes and rows:
                    lent.note_transaction(rows[0][-1])
                return rows
        except AskAgainError:
            continue


async def ask_together(
    lend: Lend, writes: bool, use: Callable[[Lendable, Callable[[int], None]], Awaitable[Answer]]
) -> Answer:
    """What `use` makes of a connection, and of what notes the transaction in which it wrote.

    No other operation of the step comes between its statements.

    `use` may be called again. It raises nothing but the database's errors: the others would count as its failures.
    """
    lent = lend(writes)
    while True:
        try:
            async with lent as connection:
                return await use(connection, lent.note_transaction)
        except AskAgainError:
            continue
