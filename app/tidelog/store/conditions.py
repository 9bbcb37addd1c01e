"""What `query` is asked, as SQL: values are parameters; names of fields are literals, as only those reach an index.

A field is `data #> '{author,name}'`, which an index `on streams.job ((data #> '{author,name}'))` serves for equality,
ranges and order; and the whole item is `data`, for which a GIN index serves `contains`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidelog.errors import ItemInvalidError, OperationInvalidError, shown
from tidelog.store.item_json import to_json

CONDITIONS_MAX = 50  # each is some text of a statement that Postgres plans
FIELD_PARTS_MAX = 20
NAME_LENGTH_MAX = 255
VALUES_MAX = 1000  # of one `in`
LIMIT_MAX = 10_000  # items of one page: they are all in memory at once

_COMPARISONS = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
OPERATORS = frozenset({"eq", "ne", "in", "contains", "exists", *_COMPARISONS})


class Conditions:
    """The text behind `where`, and its parameters; those of whoever begins come first."""

    def __init__(self, *parameters: Any) -> None:
        self.parameters = list(parameters)
        self._texts: list[str] = []

    def __str__(self) -> str:
        return " and ".join(self._texts) or "true"

    def add(self, text: str) -> None:
        self._texts.append(text)

    def bind(self, value: Any, kind: str) -> str:
        """The parameter's name in the text."""
        self.parameters.append(value)
        return f"${len(self.parameters)}::{kind}"

    def add_where(self, where: Any) -> None:
        """`{field: value}` of no dict, or `{field: {operator: value}}`. Raises OperationInvalidError."""
        if where is None:
            return
        if not isinstance(where, Mapping) or len(where) > CONDITIONS_MAX:
            raise invalid(f"where is a dict of up to {CONDITIONS_MAX} fields, not {shown(where)}", where)
        for name, wanted in where.items():
            field = field_of(name)
            for operator, value in wanted.items() if _is_operators(name, wanted) else (("eq", wanted),):
                self.add(self._compare(field, operator, value))

    def _compare(self, field: str, operator: str, value: Any) -> str:
        if operator == "exists":
            if not isinstance(value, bool):
                raise invalid(f"exists is True or False, not {shown(value)}", value)
            return f"{field} is {'not ' if value else ''}null"
        if operator == "in":
            if not isinstance(value, list | tuple) or len(value) > VALUES_MAX:
                raise invalid(f"in takes a list of up to {VALUES_MAX} values, not {shown(value)}", value)
            # As a list of parameters and not an array: a jsonb array's elements are no text[] for a driver's encoder.
            return f"{field} in ({', '.join(self._json(one) for one in value)})" if value else "false"
        if operator == "contains":
            return f"{field} @> {self._json(value)}"
        if operator in _COMPARISONS:
            kind = "string" if isinstance(value, str) else "number"
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise invalid(f"{operator} takes a number or a text, not {shown(value)}", value)
            # jsonb has an order among kinds, too: to it every object is more than 5.
            return f"({field} {_COMPARISONS[operator]} {self._json(value)} and jsonb_typeof({field}) = '{kind}')"
        if value is None:  # a field that isn't there is none
            return f"coalesce({field}, 'null'::jsonb) {'=' if operator == 'eq' else '<>'} 'null'::jsonb"
        return f"{field} = {self._json(value)}" if operator == "eq" else f"{field} is distinct from {self._json(value)}"

    def _json(self, value: Any) -> str:
        try:
            text, _ = to_json(value)
        except ItemInvalidError as error:
            raise invalid(str(error), value) from None
        return self.bind(text, "text") + "::jsonb"


def _is_operators(name: Any, wanted: Any) -> bool:
    """A dict always is: a mistyped operator shall not be taken for an object that no field is equal to."""
    if not isinstance(wanted, Mapping):
        return False
    unknown = [operator for operator in wanted if operator not in OPERATORS]
    if unknown or not wanted:
        problem = f"has no operator {shown(unknown[0])}" if unknown else "has no operator"
        raise invalid(
            f"the condition on {shown(name)} {problem}: there are {', '.join(sorted(OPERATORS))}; "
            'for equality with an object write {"eq": {...}}',
            wanted,
        )
    return True


def order_of(order_by: Any) -> str:
    """`"field"`, `"-field"` for descending, or a list of such; then oldest first. Raises OperationInvalidError."""
    names = [order_by] if isinstance(order_by, str) else order_by
    if not isinstance(names, list | tuple | None) or any(not isinstance(name, str) or not name for name in names or ()):
        raise invalid(f'order_by is "field", "-field" or a list of such, not {shown(order_by)}', order_by)
    if len(names or ()) > CONDITIONS_MAX:
        raise invalid(f"order_by has {len(names or ())} fields; at most {CONDITIONS_MAX} are taken", order_by)
    fields = [
        f"{field_of(name.removeprefix('-'))}{' desc nulls last' if name.startswith('-') else ''}"
        for name in names or ()
    ]
    return ", ".join([*fields, "created_at", "id"])


def field_of(name: Any) -> str:
    """A field as SQL has it. `name` is a dotted path, or a tuple of names; "" is the whole item."""
    if name == "":
        return "data"
    parts: Sequence[Any] = name.split(".") if isinstance(name, str) else name
    if not isinstance(parts, list | tuple) or not 1 <= len(parts) <= FIELD_PARTS_MAX or not all(map(_is_name, parts)):
        raise invalid(
            f"a field is a name, a dotted path, or a tuple of up to {FIELD_PARTS_MAX} names, not {shown(name)}", name
        )
    # Quoted twice: as an element of an array's text, and as a literal. There are no backslashes (_is_name).
    path = ",".join(f'"{part}"' if not part.isidentifier() or part.lower() == "null" else part for part in parts)
    return "(data #> '{" + path.replace("'", "''") + "}')"


def checked_limit(limit: Any) -> int | None:
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= LIMIT_MAX:
        raise invalid(f"limit must be from 1 to {LIMIT_MAX}, or None for all, not {shown(limit)}", limit)
    return limit


def checked_order(order: Any) -> bool:
    """Whether it is descending."""
    if order not in ("asc", "desc"):
        raise invalid(f'order must be "asc" (oldest first) or "desc", not {shown(order)}', order)
    return bool(order == "desc")


def invalid(message: str, culprit: Any) -> OperationInvalidError:
    return OperationInvalidError(message, culprits=[culprit])


def _is_name(part: Any) -> bool:
    return (
        isinstance(part, str)
        and 1 <= len(part) <= NAME_LENGTH_MAX
        and part.isprintable()
        and not any(mark in part for mark in '\\"')
    )
