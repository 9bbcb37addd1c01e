"""An index of an author's own on a stream's table, as the stream's `indexes` declare it. No I/O."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tidelog.errors import DeclarationError

INDEXES_MAX = 16  # of a stream: each is written at every change of an item
COLUMNS_MAX = 8  # of an index; Postgres takes 32
DEPTH_MAX = 16  # of a path
EXPRESSION_LENGTH_MAX = 1000
METHODS = ("btree", "gin")
# A table's name has 48 bytes at most, and Postgres cuts names at 63: `_ix_` and ten digits fit.
MARK = "_ix_"
DIGITS = 10

_FORMS = (
    'a path such as "status" or "author.name", a list of such for several columns, or {"expression": "lower(data ->> '
    '\'title\')"}, also with "using": "gin"'
)
_PLAIN = re.compile("[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Index:
    """One index. Its name is made of what it is, so another declaration is another index."""

    name: str
    declared: str  # as the author wrote it, as JSON: for messages
    on: str = field(repr=False)  # SQL, what follows the table's name: using btree ((data #> '{status}'))

    @classmethod
    def of(cls, table: str, declared: Any) -> Index:
        """Raises DeclarationError."""
        method, plain = "btree", declared
        if isinstance(declared, dict) and "using" in declared:
            method = declared["using"]
            if method not in METHODS:
                raise DeclarationError(f'an index\'s "using" must be one of {", ".join(METHODS)}, not {method!r:.80}')
            plain = {key: value for key, value in declared.items() if key != "using"}
        columns = plain if isinstance(plain, list | tuple) else [plain]
        if not 1 <= len(columns) <= COLUMNS_MAX:
            raise DeclarationError(f"an index has 1 to {COLUMNS_MAX} columns, not {len(columns)}")
        on = f"using {method} ({', '.join(f'({_expression(column)})' for column in columns)})"
        digest = hashlib.sha256(on.encode()).hexdigest()[:DIGITS]
        return cls(f"{table}{MARK}{digest}", json.dumps(declared, ensure_ascii=False), on)

    def make(self, table: str, *, concurrently: bool) -> str:
        """The statement that makes it."""
        return f"create index {'concurrently ' * concurrently}if not exists {self.name} on streams.{table} {self.on}"


def indexes_of(table: str, declared: Any) -> tuple[Index, ...]:
    """What a stream's config has as `indexes`. Raises DeclarationError."""
    if not isinstance(declared, list | tuple):
        raise DeclarationError(f"indexes must be a list, each {_FORMS}; not {declared!r:.80}")
    if len(declared) > INDEXES_MAX:
        raise DeclarationError(f"{len(declared)} indexes; at most {INDEXES_MAX}, as each is written at every change")
    found = [Index.of(table, one) for one in declared]
    return tuple({index.name: index for index in found}.values())


def _expression(column: Any) -> str:
    if isinstance(column, str):
        return f"data #> {_quoted('{' + ','.join(map(_element, _steps(column))) + '}')}"
    if isinstance(column, dict) and column.keys() == {"expression"}:
        expression = column["expression"]
        if isinstance(expression, str) and 1 <= len(expression.strip()) <= EXPRESSION_LENGTH_MAX:
            if "\0" in expression:
                raise DeclarationError("an index's expression can't have a NUL character")
            return expression.strip()
        raise DeclarationError(f"an index's expression must be SQL of 1 to {EXPRESSION_LENGTH_MAX} characters")
    raise DeclarationError(f"an index must be {_FORMS}; not {column!r:.80}")


def _steps(path: str) -> Sequence[str]:
    steps = path.split(".")
    if not all(steps) or len(steps) > DEPTH_MAX or "\0" in path:
        raise DeclarationError(f"{path!r:.80} is no path of an index: names with dots between them, as author.name")
    return steps


def _element(name: str) -> str:
    """Of an array's text."""
    if _PLAIN.fullmatch(name) and name.lower() != "null":
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _quoted(text: str) -> str:
    # E'' where there is a backslash: '' alone would depend on a setting of the session.
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"{'E' if escaped.count(chr(92)) else ''}'{escaped}'"
