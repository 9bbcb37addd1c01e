"""JSON Schema's `format`, where pydantic writes more than RFC 3339 has: a schema takes its model's own data."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, time

_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_TIME = re.compile(r"\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_DURATION = re.compile(
    r"-?P(?!$)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?)", re.ASCII
)  # ISO 8601


def _is_date_time(text: str) -> bool:
    """RFC 3339, but the offset may be left out, as it is where a datetime has no time zone."""
    return _DATE_TIME.fullmatch(text) is not None and _is_taken(datetime.fromisoformat, text)


def _is_time(text: str) -> bool:
    """RFC 3339, but the offset may be left out, likewise."""
    return _TIME.fullmatch(text) is not None and _is_taken(time.fromisoformat, text)


def _is_duration(text: str) -> bool:
    """RFC 3339, and a sign and fractions of seconds, as a timedelta may have them."""
    return _DURATION.fullmatch(text) is not None


def _is_taken(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


FORMATS: dict[str, Callable[[str], bool]] = {"date-time": _is_date_time, "time": _is_time, "duration": _is_duration}
