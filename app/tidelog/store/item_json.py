"""What programs give as keys and items, as the text that is stored; or what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from tidelog.errors import ItemInvalidError, KeyInvalidError, await_hint, shown
from tidelog.json_text import is_within, parse
from tidelog.model.item import KEY_LENGTH_MAX_BYTES

_INT_KEY_BITS_MAX = (10**KEY_LENGTH_MAX_BYTES).bit_length()  # more digits are no key, and str() may refuse them
PATH_LENGTH_MAX = 200  # of what is told of a place in a value

encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=to_jsonable_python).encode


def to_json(value: Any) -> tuple[str, Any]:
    """`value` as JSON text, and as plain JSON types (pydantic models, datetimes, UUIDs and the like become them).

    Raises ItemInvalidError for what JSON or jsonb can't hold: NaN, infinities, NUL characters, lone
    surrogates, other objects.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    try:
        text = encode(value)
        text.encode()
    except (ValueError, TypeError, RecursionError, PydanticSerializationError) as error:
        raise ItemInvalidError(f"not JSON: {_culprit(value)}{error}{await_hint(str(error))}") from error
    plain = parse(text)
    if "\\u0000" in text and is_within(plain, lambda one: isinstance(one, str) and "\0" in one):
        raise ItemInvalidError("not storable: Postgres's jsonb can't hold the NUL character (\\u0000)")
    return text, plain


def _culprit(value: Any) -> str:
    """The first place in `value` that JSON has no words for, as a JSON Pointer (RFC 6901) with its value; else ""."""
    pending: list[tuple[str, Any]] = [("", value)]
    seen: set[int] = set()  # what contains itself is no single place
    while pending:
        path, one = pending.pop()
        if isinstance(one, dict | list | tuple):
            if id(one) not in seen:
                seen.add(id(one))
                members = one.items() if isinstance(one, dict) else enumerate(one)
                # Cut at each level: of very deep ones whole paths would be quadratic.
                pending += reversed([(f"{path}/{_escaped(name)}"[:PATH_LENGTH_MAX], each) for name, each in members])
        elif not _is_writable(one):
            return f"{path or 'it'} is {shown(one)}: "
    return ""


def _escaped(name: Any) -> str:
    return name.replace("~", "~0").replace("/", "~1") if isinstance(name, str) else shown(name)


def _is_writable(one: Any) -> bool:
    try:
        encode(one).encode()
    except (ValueError, TypeError, RecursionError, PydanticSerializationError):
        return False
    return True


def check_size(where: str, text: str, parts: Iterable[Any], size_max_bytes: int) -> None:
    """Raise ItemInvalidError if the text of an item or event, made of `parts`, is too large."""
    size = len(text) if text.isascii() else len(text.encode())
    if size > size_max_bytes:
        raise ItemInvalidError(
            f"{where}: {size} bytes of JSON; at most {size_max_bytes} are taken (TIDELOG_BODY_SIZE_MAX_BYTES)",
            culprits=[largest(parts)],
        )


def largest(parts: Iterable[Any]) -> Any:
    return max(parts, key=lambda part: len(encode(part)), default=None)


def size_of(text: str) -> int:
    """In bytes of UTF-8; 0 of what it can't hold."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return 0


def checked_key(what: str, key: Any) -> str:
    """A key as it is stored. Raises KeyInvalidError."""
    if isinstance(key, int) and not isinstance(key, bool) and key.bit_length() <= _INT_KEY_BITS_MAX:
        key = str(key)  # JavaScript's habit, and Motia's: a key is a string, whatever was passed
    if not isinstance(key, str):
        raise KeyInvalidError(f"{what} must be a string, not {shown(key)}{await_hint(shown(key))}", key)
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise KeyInvalidError(f"{what} {key!r:.80} has a lone surrogate, which UTF-8 can't hold", key) from None
    if "\0" in key or not 1 <= size <= KEY_LENGTH_MAX_BYTES:
        message = f"{what} {key!r:.80} must have 1 to {KEY_LENGTH_MAX_BYTES} bytes and no NUL character"
        raise KeyInvalidError(message, key)
    return key
