"""Where a reader stands in the feed, and why a place can't be gone on from."""

from typing import Literal, NamedTuple

# too_old: commits after it are removed; epoch: it is of another database history; ahead: it is after the
# newest commit; too_large: a commit is too big to be carried; unreadable: the database can't tell what is in one.
ResetReason = Literal["too_old", "epoch", "ahead", "too_large", "unreadable"]


class Position(NamedTuple):
    """After commit `number` of the database history `epoch`."""

    number: int
    epoch: str
