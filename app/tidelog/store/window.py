"""Which transactions a statement that is prepared once is planned for.

Postgres locks every partition that is in a prepared statement's plan, whenever it runs, also those that it then
doesn't look at: with a hundred of them numbering takes a tenth longer, and half as long again on a busy machine. What
a plan has in it is decided by constants. So the statements that run hundreds of times a second have two, and all that
they ask for lies between them; when the log has gone on to where it doesn't, others take their place: once in a
partition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tidelog.store.queries import load

if TYPE_CHECKING:
    import asyncpg

NUMBERING_WINDOW = load("numbering_window")


class Window(NamedTuple):
    """Transactions from `low` on, below `high`, by their numbers in the log."""

    low: int
    high: int

    def apply(self, statement: str) -> str:
        """The statement, in which {change} is the log, {low} and {high} the bounds of what of it is planned for."""
        change = "(select * from streams.change where xid >= {low} and xid < {high})"
        return (
            statement.replace("{change}", change)
            .replace("{low}", f"'{self.low}'::xid8")
            .replace("{high}", f"'{self.high}'::xid8")
        )


async def numbering_window(connection: asyncpg.Connection[Any], snapshot: str) -> Window:
    """Where what became visible since `snapshot` is, with room for what comes: up to the end of the next partition."""
    row = await connection.fetchrow(NUMBERING_WINDOW, snapshot)
    assert row is not None  # noqa: S101 - an aggregate answers one row
    return Window(int(row["low"]), int(row["high"]))
