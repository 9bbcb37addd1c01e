"""Who makes a transaction's changes: the step, its trace and the user, as the log keeps it for the history."""

from __future__ import annotations

from typing import NamedTuple

_DIVIDER = "\x1f"  # ASCII's unit separator: what migrations/sql/0006_partitions/make_history.sql divides it by
PART_LENGTH_MAX = 200  # characters; it is in the log with each change


class Origin(NamedTuple):
    """A part that is None is nobody's."""

    step: str | None = None
    trace_id: str | None = None
    subject: str | None = None

    @property
    def setting(self) -> str:
        """The value of tidelog.origin, as an SQL literal."""
        parts = _DIVIDER.join(_plain(part) for part in self)
        return "''" if parts == _DIVIDER * 2 else "'" + parts.replace("'", "''") + "'"


NOBODY = Origin()


def _plain(part: str | None) -> str:
    """Without what would end the literal, or the part; a user's name comes from outside."""
    if part is None:
        return ""
    kept = part[:PART_LENGTH_MAX]
    if not kept.isascii() or not kept.isprintable() or "\\" in kept:
        printable = "".join(each if each.isprintable() and each != "\\" else "?" for each in kept)
        kept = printable.encode(errors="replace").decode()
    return kept
