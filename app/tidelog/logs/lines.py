"""From a record to a line: JSON for machines, columns for people. One record is one line, whatever is in it.

People get a traceback below its line, indented: only a record begins at the left, and no text of a client's is one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import MutableMapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quote
from os import getpid
from time import gmtime, strftime
from typing import Any

from structlog.dev import ConsoleRenderer
from structlog.processors import JSONRenderer
from structlog.stdlib import ProcessorFormatter

from tidelog.logs.access import ACCESS_LOGGER, Access, AccessRecord
from tidelog.logs.redaction import Redaction
from tidelog.logs.request import current_request

MESSAGE_WIDTH = 40  # of the column; what is longer moves the rest of its line

_INDENT = "\n    "
_QUOTED = frozenset(" \t=\r\n\"'")  # ConsoleRenderer writes texts with one of these as Python does, with escapes
_OWN = ("time", "level", "logger", "message", "pid", "exception", "stack", "event")
# What every record has; the rest was given with `extra`. `color_message` is uvicorn's message once more.
_OF_LOGGING = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_plain = logging.Formatter()

Fields = MutableMapping[str, Any]


class LineFormatter(ProcessorFormatter):
    """structlog's formatter for records of the standard library's loggers, which all of ours are."""

    def __init__(self, redaction: Redaction, *, as_json: bool, colors: bool = False) -> None:
        # ASCII, so that it is JSON in any locale, and nothing in it moves a terminal's cursor.
        render = JSONRenderer(json.dumps, ensure_ascii=True) if as_json else _columns(colors)
        super().__init__(processors=[self._describe, render], use_get_message=True)
        self._redaction = redaction
        self._as_json = as_json
        self._pid = getpid()  # asked for once: it is a call of the kernel

    def format(self, record: logging.LogRecord) -> str:
        """The line of `record`. Never fails: an error here would be printed as it is, with all that is in it."""
        try:
            if type(record) is AccessRecord:
                return self.access(record.access)
            return super().format(record)
        except Exception as error:
            told = f"a record of {record.name} that can't be shown: {type(error).__name__}: {record.msg!r:.200}"
            return super().format(logging.LogRecord("tidelog.logs", logging.ERROR, "", 0, told, None, None))

    def access(self, access: Access) -> str:
        """The line of an answered request."""
        return _access_json(access, self._pid) if self._as_json else _access_columns(access)

    def _describe(self, _logger: Any, _method: str, given: Fields) -> Fields:
        """The fields of a record, in their order."""
        record: logging.LogRecord = given["_record"]
        extra = {key: value for key, value in vars(record).items() if key not in _OF_LOGGING}
        request = current_request.get()
        if request is not None:
            extra = {**request._asdict(), **extra}
        fields: dict[str, Any] = {
            "time": time_of(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redaction.text(str(given["event"]).rstrip()),
        }
        for key, value in extra.items():
            fields[f"{key}_" if key in _OWN else key] = self._redaction.field(key, value)
        fields["pid"] = record.process
        if isinstance(given.get("exc_info"), tuple):
            fields["exception"] = self._redaction.text(_plain.formatException(given["exc_info"]))
        if given.get("stack_info"):
            fields["stack"] = self._redaction.text(given["stack_info"])
        return fields if self._as_json else _for_people(fields)


def time_of(seconds: float) -> str:
    """RFC 3339, UTC, with microseconds."""
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1e6):06d}Z"


def printable(text: str) -> str:
    """`text` with line breaks, and what else terminals act on, as escapes."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


@lru_cache(maxsize=16)  # many lines are of one second
def _second(seconds: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds))


def _access_json(access: Access, pid: int) -> str:
    # By hand: at each request, and a tenth of what structlog needs. The same fields in the same order.
    created, method, path, status, duration_ms, size_bytes, step, trace_id = access
    return (
        f'{{"time": "{time_of(created)}", "level": "info", "logger": "{ACCESS_LOGGER}", "message": "request", '
        f'"step": {"null" if step is None else quote(step)}, "trace_id": {quote(trace_id)}, '
        f'"method": {quote(method)}, "path": {quote(path)}, "status": {"null" if status is None else status}, '
        f'"duration_ms": {duration_ms:.3f}, "bytes": {size_bytes}, "pid": {pid}}}'
    )


def _access_columns(access: Access) -> str:
    step = "" if access.step is None else f" step={printable(access.step)}"
    return (
        f"{time_of(access.created)} [info     ] {access.message:<{MESSAGE_WIDTH}} "
        f"[{ACCESS_LOGGER}] duration_ms={access.duration_ms:.1f} bytes={access.size_bytes}{step} "
        f"trace_id={access.trace_id}"
    )


def _columns(colors: bool) -> ConsoleRenderer:
    return ConsoleRenderer(
        colors=colors,
        pad_event_to=MESSAGE_WIDTH,
        sort_keys=False,
        event_key="message",
        timestamp_key="time",
    )


def _for_people(fields: Fields) -> Fields:
    """Each value as one word on the line; what has lines of its own below it, indented."""
    shown = {
        printable(key): _word(value)
        for key, value in fields.items()
        if key not in ("exception", "stack", "pid", "message")
    }
    shown["message"] = printable(fields["message"])
    below = [fields[key] for key in ("stack", "exception") if key in fields]
    if below:
        lines = [printable(line) for text in below for line in text.split("\n")]
        shown["exception"] = "    " + _INDENT.join(lines)
    return shown


def _word(value: Any) -> Any:
    return value if not isinstance(value, str) or _QUOTED & set(value) else printable(value)
