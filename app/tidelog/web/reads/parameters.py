"""The query string of a read, checked: what isn't understood is refused and never ignored."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from tidelog.errors import QueryInvalidError, shown
from tidelog.model.item import KEY_LENGTH_MAX_BYTES
from tidelog.web.callers import QUERY_PARAMETER
from tidelog.web.request import parse_query

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000  # rows of a page, which is also bounded in bytes
POSITION_MAX = 2**63 - 1  # a bigint
TRANSACTION_MAX = 2**64 - 1

_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_SPACED_ZONE = re.compile(r"(.+:.+) (\d\d:?\d\d)", re.ASCII)  # a "+" that was not escaped
_CURSOR = re.compile(r"([0-9]{1,19})\.([0-9]{1,19})", re.ASCII)  # a commit and the seq of a change, as `next` has it
_POSITION = "position:"


class Parameters:
    """Each is there once, or not at all. Everything raises QueryInvalidError."""

    def __init__(self, query: bytes, names: frozenset[str]) -> None:
        """`names` are those that this read has; a token may be beside them."""
        given = parse_query(query)
        self._values: dict[str, str] = {}
        for name, value in given.items():
            if name == QUERY_PARAMETER:
                continue
            if name not in names:
                raise QueryInvalidError(
                    f"there is no parameter {shown(name)} here; there are {', '.join(sorted(names))}"
                )
            if not isinstance(value, str):
                raise QueryInvalidError(f"the parameter {name} is there {len(value)} times")
            self._values[name] = value

    def text(self, name: str) -> str | None:
        return self._values.get(name)

    def key(self, name: str) -> str | None:
        """A group id or an item's id."""
        value = self._values.get(name)
        if value is not None and not 1 <= len(value.encode()) <= KEY_LENGTH_MAX_BYTES:
            raise QueryInvalidError(f"the parameter {name} must have 1 to {KEY_LENGTH_MAX_BYTES} bytes")
        return value

    def needed_key(self, name: str) -> str:
        value = self.key(name)
        if value is None:
            raise QueryInvalidError(f"the parameter {name} is missing")
        return value

    def limit(self) -> int:
        return self._number("limit", 1, LIMIT_MAX) if "limit" in self._values else LIMIT_DEFAULT

    def at(self, name: str = "at") -> int | datetime | None:
        """A position, or a time with its zone."""
        value = self._values.get(name)
        if value is None:
            return None
        if _NUMBER.fullmatch(value):
            return self._number(name, 0, POSITION_MAX)
        moment = _moment_of(value)
        if moment is None:
            raise QueryInvalidError(
                f"the parameter {name} is a position, or a time as 2026-01-31T12:00:00Z, not {shown(value)}"
            )
        return moment

    def cursor(self) -> tuple[int, int] | None:
        """`after` of a history."""
        value = self._values.get("after")
        if value is None:
            return None
        found = _CURSOR.fullmatch(value)
        if found is None or max(int(found[1]), int(found[2])) > POSITION_MAX:
            raise QueryInvalidError(f"the parameter after is what `next` was in an answer, not {shown(value)}")
        return int(found[1]), int(found[2])

    def wait_for(self) -> Awaited | None:
        """What the answer is to wait for."""
        value = self._values.get("wait_for")
        return None if value is None else Awaited.of(value)

    def _number(self, name: str, least: int, most: int) -> int:
        value = self._values[name]
        if not _NUMBER.fullmatch(value) or not least <= int(value) <= most:
            raise QueryInvalidError(f"the parameter {name} is a number from {least} to {most}, not {shown(value)}")
        return int(value)


def _moment_of(text: str) -> datetime | None:
    """In UTC; None if it is no time with a zone, or one at either end of time that UTC doesn't have."""
    spaced = _SPACED_ZONE.fullmatch(text)
    try:
        moment = datetime.fromisoformat(f"{spaced[1]}+{spaced[2]}" if spaced else text)
        return None if moment.tzinfo is None else moment.astimezone(UTC)
    except (OverflowError, ValueError):
        return None


class Awaited:
    """A transaction, or a position: what the header Tidelog-Transaction has."""

    def __init__(self, *, transaction: int | None = None, position: int | None = None) -> None:
        self.transaction = transaction
        self.position = position

    @classmethod
    def of(cls, text: str) -> Awaited:
        """Raises QueryInvalidError."""
        is_position = text.startswith(_POSITION)
        number = text.removeprefix(_POSITION)
        if _NUMBER.fullmatch(number):
            if is_position and int(number) <= POSITION_MAX:
                return cls(position=int(number))
            if not is_position and 0 < int(number) <= TRANSACTION_MAX:
                return cls(transaction=int(number))
        raise QueryInvalidError(f"{shown(text)} is no transaction: it is what the header Tidelog-Transaction had")
