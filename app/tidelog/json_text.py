"""JSON beyond the limits of Python's own reader and writer. Knows nothing of streams, and needs no other part.

Anybody may write an item by SQL, and jsonb takes what Python's json refuses: integers of 131,072 digits (Python's int()
stops at 4,300) and thousands of levels of nesting (Python's recursion ends at 1,000, pydantic's at 255). One such item
must not keep a group from being read. What is usual is left to the libraries; here is what they raise for.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

_FLOAT_DIGITS = 309  # before the point; from so many on a double may be infinite
_SAMPLE_EVERY = _FLOAT_DIGITS // 2  # then two characters in a row that are looked at are digits of one number
_TWO_DIGITS = re.compile("[0-9][0-9]")
_LONG_NUMBER = re.compile(f"[0-9]{{{_FLOAT_DIGITS}}}")
_CHUNK_DIGITS = 600  # at once; Python's limit can be set down to 640, and its conversion is quadratic
_CHUNK_BITS = (10**_CHUNK_DIGITS).bit_length() - 1

_TOKEN = re.compile(
    r"[ \t\n\r]*(?:(?P<mark>[][{},:])|(?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)"
    r'|(?P<other>["tfn])|(?P<end>$))'
)
_decode = json.JSONDecoder().raw_decode
_encode_text = json.JSONEncoder(ensure_ascii=False).encode


def parse(text: str) -> Any:
    """What the JSON `text` says, however deep it is and whatever its numbers. Raises ValueError for what is no JSON.

    A number with a fraction that no float can hold (from 1.8e308 on) is an int: it loses less than a float would.
    """
    if len(text) >= _FLOAT_DIGITS and _TWO_DIGITS.search(text[::_SAMPLE_EVERY]) and _LONG_NUMBER.search(text):
        return _parse(text)
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError):
        return _parse(text)


def write(value: Any, default: Callable[[Any], Any]) -> str:
    """`value` as JSON, however deep it is and whatever its numbers; `default` makes plain what is no plain JSON.

    Raises ValueError for NaN, infinities, and what contains itself.
    """
    parts: list[str] = []
    open_ids: set[int] = set()  # of the containers around the place that is written
    work: list[Iterator[tuple[str, Any]]] = [iter([("", value)])]
    closing: list[tuple[str, int]] = [("", 0)]
    while work:
        prefix_and_one = next(work[-1], None)
        if prefix_and_one is None:
            work.pop()
            mark, container_id = closing.pop()
            parts.append(mark)
            open_ids.discard(container_id)
            continue
        prefix, one = prefix_and_one
        parts.append(prefix)
        if not isinstance(one, dict | list | tuple | str | int | float | None):
            one = default(one)
        if isinstance(one, dict | list | tuple):
            if id(one) in open_ids:
                raise ValueError("it contains itself")
            open_ids.add(id(one))
            is_object = isinstance(one, dict)
            parts.append("{" if is_object else "[")
            closing.append(("}" if is_object else "]", id(one)))
            work.append(_members(one, default) if isinstance(one, dict) else _elements(one))
        else:
            parts.append(_scalar(one))
    return "".join(parts)


def is_within(value: Any, found: Callable[[Any], bool]) -> bool:
    """Whether `found` says so of a key or a value in plain JSON, or of itself."""
    pending = [value]
    for one in pending:  # grows as it goes: no recursion
        if found(one):
            return True
        if isinstance(one, dict):
            pending.extend(one)
            pending.extend(one.values())
        elif isinstance(one, list):
            pending.extend(one)
    return False


def _parse(text: str) -> Any:
    """A reader without recursion."""
    result: list[Any] = []
    around: list[Any] = [result]  # the containers that are open
    keys: list[str] = [""]  # of the member that is read, for each of them
    state = "value"  # what may come: a value, the "first" one or "]", a "key", the "first key" or "}", "after" a value
    place = 0
    while True:
        token = _TOKEN.match(text, place)
        if token is None:
            raise json.JSONDecodeError("Expecting a token", text, place)
        kind, mark, start = token.lastgroup, token["mark"], token.start(token.lastgroup or 0)
        container, place = around[-1], token.end()
        if state == "after" and (mark == "," and container is not result):
            state = "key" if isinstance(container, dict) else "value"
            continue
        if kind == "end" and state == "after" and container is result:
            return result[0]
        is_closed = (mark == "]" and isinstance(container, list) and state in ("first", "after")) or (
            mark == "}" and isinstance(container, dict) and state in ("first key", "after")
        )
        if is_closed and container is not result:
            around.pop()
            keys.pop()
            state = "after"
            continue
        if state in ("key", "first key") and text[start : start + 1] == '"':
            key, place = _decode(text, start)
            colon = _TOKEN.match(text, place)
            if colon is None or colon["mark"] != ":":
                raise json.JSONDecodeError("Expecting ':'", text, place)
            keys[-1], place, state = key, colon.end(), "value"
            continue
        if state not in ("value", "first") or mark not in (None, "[", "{") or kind == "end":
            raise json.JSONDecodeError("Unexpected token", text, start)
        one: Any
        if mark is not None:
            one = [] if mark == "[" else {}
        elif kind == "number":
            one = _number(token["number"])
        else:
            one, place = _decode(text, start)
        if isinstance(container, dict):
            container[keys[-1]] = one
        else:
            container.append(one)
        state = "after"
        if mark is not None:
            around.append(one)
            keys.append("")
            state = "first" if mark == "[" else "first key"


def _number(digits: str) -> int | float:
    sign = -1 if digits.startswith("-") else 1
    whole, _, fraction = digits.removeprefix("-").partition(".")
    if whole.isdigit() and not fraction:
        return sign * _int_of(whole)
    number = float(digits)
    if math.isinf(number) and whole.isdigit() and fraction.isdigit():  # Postgres writes no exponents
        return sign * _int_of(whole)
    return number


def _int_of(digits: str) -> int:
    """int(digits), without its limit, and in less than quadratic time: two and two chunks become one."""
    ends = range(len(digits), 0, -_CHUNK_DIGITS)
    chunks = [int(digits[max(0, end - _CHUNK_DIGITS) : end]) for end in ends]  # the lowest first
    base = 10**_CHUNK_DIGITS
    while len(chunks) > 1:
        chunks += [0] * (len(chunks) % 2)
        chunks = [low + high * base for low, high in zip(chunks[::2], chunks[1::2], strict=True)]
        base *= base
    return chunks[0]


def _digits_of(value: int) -> str:
    """str(value) of one that isn't negative, likewise: one chunk becomes two and two."""
    bases = [10**_CHUNK_DIGITS]
    while bases[-1] * bases[-1] <= value:
        bases.append(bases[-1] * bases[-1])
    chunks = [value]  # the highest first
    for base in reversed(bases):
        chunks = [half for chunk in chunks for half in divmod(chunk, base)]
    return "".join(str(chunk).zfill(_CHUNK_DIGITS) for chunk in chunks).lstrip("0")


def _elements(array: list[Any] | tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    for number, element in enumerate(array):
        yield "," if number else "", element


def _members(members: dict[Any, Any], default: Callable[[Any], Any]) -> Iterator[tuple[str, Any]]:
    for number, (key, value) in enumerate(members.items()):
        if not isinstance(key, str):
            key = default(key)
        name = key if isinstance(key, str) else _scalar(key)
        yield f"{',' if number else ''}{_encode_text(name)}:", value


def _scalar(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > _CHUNK_BITS:
        return ("-" if value < 0 else "") + _digits_of(abs(value))
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
