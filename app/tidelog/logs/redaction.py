"""What must not be in the log is taken out here: passwords, tokens, and whatever stands in a URL's query string.

It errs on the safe side: a harmless word behind `token=` goes, too. Knows nothing of logging.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from pydantic_core import PydanticSerializationError, to_jsonable_python

from tidelog.errors import shown

REDACTED = "***"
TEXT_LENGTH_MAX = 16_384  # of a message, a value, a traceback: collectors cut lines, or refuse them
SEARCHED_LENGTH_MAX = 4 * TEXT_LENGTH_MAX  # so that no cut of ours, within a secret, is near what is shown
SECRET_LENGTH_MIN = 4  # a shorter password would be taken out of half the words

_NAME = r"(?:password|passwd|pwd|secret|token|api[_-]?key|authorization|cookie|signature|credential)s?"
# Everything is bounded: what is searched may be an attacker's.
_RULES = (
    # scheme://user:password@; a password that isn't escaped may have anything in it, up to the last @
    (re.compile(r"(://[^\s:/?#@'\"]{0,200}):[^\s'\"]{0,2000}@"), rf"\1:{REDACTED}@"),
    (re.compile(r"(://[^\s?#'\"]{1,2000}\?)[^\s'\"]+"), rf"\1{REDACTED}"),
    # name=value, name: value, "name": "value"
    (
        re.compile(
            rf"({_NAME}[\"']?\s{{0,2}}[=:]\s{{0,2}}[\"']?)(?:(?:bearer|basic) )?(?!\d{{1,9}}\b)[^\s\"'&,;)}}\]]+",
            re.IGNORECASE,
        ),
        rf"\1{REDACTED}",  # but not `tokens: 1200`
    ),
    (re.compile(r"\b(bearer) [A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1 {REDACTED}"),
    (re.compile(r"\beyJ[\w-]{10,}\.[\w-]+\.[\w-]*"), REDACTED),  # a JSON Web Token
)
# Without one of these no rule applies: most texts are short, and have none.
_HINT = re.compile(r"[:=]|eyJ|[Bb][Ee][Aa][Rr][Ee][Rr] ")
_SECRET_KEY = re.compile(_NAME, re.IGNORECASE)
_PASSWORDS = (
    re.compile(r"://[^:/?#@]*:([^@]*)@"),
    re.compile(r"://[^:/?#@]*:(.*)@"),  # with an @ in it
    re.compile(r"[?&](?:ssl)?password=([^&#]*)"),
    re.compile(r"(?:^|\s)(?:ssl)?password\s*=\s*((?:[^\s'\\]|\\.)+)"),  # libpq's pairs
    re.compile(r"(?:^|\s)(?:ssl)?password\s*=\s*'((?:[^'\\]|\\.)*)'"),
)


class Redaction:
    """Takes out what looks like a secret, and the secrets that are known."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {secret for secret in secrets if len(secret) >= SECRET_LENGTH_MIN}
        # The longest first: one may be part of another.
        self._known = sorted(known, key=len, reverse=True)

    @classmethod
    def of_database(cls, url: str | None) -> Redaction:
        """One that knows the passwords of a database's URL, as they are written there and as they are sent."""
        found = [match[1] for rule in _PASSWORDS for match in rule.finditer(url or "")]
        return cls([*found, *map(unquote, found), *(re.sub(r"\\(.)", r"\1", one) for one in found)])

    def text(self, text: str) -> str:
        """`text` without secrets, shortened in its middle if it is long."""
        text = _shortened(text, SEARCHED_LENGTH_MAX)
        for secret in self._known:
            text = text.replace(secret, REDACTED)
        if _HINT.search(text) is not None:
            for rule, instead in _RULES:
                text = rule.sub(instead, text)
        return _shortened(text, TEXT_LENGTH_MAX)

    def field(self, name: str, value: Any) -> Any:
        """The value of `name` as JSON has it, without secrets; never fails. What is too large becomes a text."""
        try:
            plain = self._field(name, to_jsonable_python(value, fallback=shown))
            text = "" if isinstance(plain, str) else json.dumps(plain)
        except (ValueError, TypeError, RecursionError, PydanticSerializationError):
            return self.text(shown(value))
        return plain if len(text) <= TEXT_LENGTH_MAX else _shortened(text, TEXT_LENGTH_MAX)

    def _field(self, name: str, value: Any) -> Any:
        is_number = value is None or isinstance(value, int | float)  # of an LLM's tokens, say
        return REDACTED if not is_number and _SECRET_KEY.search(name) else self._within(value)

    def _within(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self._field(key, one) for key, one in value.items()}
        if isinstance(value, list):
            return [self._within(one) for one in value]
        return str(value) if value in (math.inf, -math.inf) or value != value else value  # JSON has no such numbers


def _shortened(text: str, length_max: int) -> str:
    """Its beginning and its end, where an error's name and a traceback's error are."""
    if len(text) <= length_max:
        return text
    half = length_max // 2
    return f"{text[:half]} ...{len(text) - 2 * half} characters left out... {text[-half:]}"
