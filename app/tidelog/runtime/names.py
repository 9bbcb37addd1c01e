"""What is said where an attribute is asked for that isn't there: which there are, and what may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

NEAR = 0.6  # of a name and the one that it is taken for
NO_STREAMS = {
    "db": "SQLAlchemy's session is a step's `context.db`; elsewhere use a connection of your own",
    "transaction": "`async with streams.transaction()` is tidelog.open's; a step is one transaction by itself",
}


def no_attribute(of: object, what: str, name: str, known: Iterable[str]) -> AttributeError:
    """The error for `name`, which `what` hasn't."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=NEAR)
    meant = f": did you mean {near[0]!r}?" if near else "."
    return AttributeError(f"{what} has no {name!r}{meant} It has {', '.join(names)}", name=name, obj=of)


def meant_by(name: str, known: Iterable[str]) -> str:
    """What there is instead of `name`."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=NEAR)
    return (f"did you mean {near[0]!r}? " if near else "") + f"There are {', '.join(names)}"
