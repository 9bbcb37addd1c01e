"""From an ASGI request to the `req` dict of a handler. Knows nothing of steps' schemas or transactions."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from pydantic_core import from_json

from tidelog.errors import BodyInvalidError, BodyTooLargeError, ClientGoneError, QueryInvalidError
from tidelog.json_text import is_within
from tidelog.logs.request import new_trace_id

FIELDS_MAX = 1000  # of a query string or form: parsing is linear, but a dict entry costs 100 times its byte

_NUL = "a NUL character, which Postgres can't hold"
_NO_UTF_8 = "bytes that are no UTF-8"
_TRACE_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)
# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.ASCII
)

Receive = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request, whole but not looked into: `req()` makes a fresh dict each time, for handlers that change it."""

    body: bytes
    headers: dict[str, str]
    path_params: Mapping[str, str]
    query: bytes

    def req(self) -> dict[str, Any]:
        """What a handler gets. Raises BodyInvalidError and QueryInvalidError.

        Nothing of it has a NUL character, a lone surrogate or an infinity: what a handler hands on to a stream or a
        table can be stored, as far as it depends on characters and numbers. Of a name that a JSON object has twice the
        last counts, as in jsonb and in JavaScript.
        """
        text, value = _parse_body(self.body, self.headers.get("content-type", ""))
        return {
            "body": value,
            "headers": dict(self.headers),
            "pathParams": dict(self.path_params),
            "queryParams": parse_query(self.query) if self.query else {},
            "rawBody": text,
        }

    def hint(self, body: Any) -> str:
        """What may be wrong with a `body` that doesn't fit, beside what is in it: that it wasn't read as JSON."""
        kind = _kind_of(self.headers.get("content-type", ""))
        if not self.body:
            return "; the request has no body"
        if not kind and isinstance(body, str):
            return "; it came without a content type, and is not JSON"
        if not kind or _is_json(kind):
            return ""
        return f"; it came as {kind:.80}, and was not read as JSON: send that with `content-type: application/json`"


async def read_body(receive: Receive, headers: Mapping[str, str], size_max_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLargeError as soon as it is known to be, and ClientGoneError."""
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:19]) > size_max_bytes:
        raise _too_large(size_max_bytes)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("the client closed its connection while sending its request")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > size_max_bytes:
            raise _too_large(size_max_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Lower-case names to values; a header that is repeated has its values joined, as RFC 9110 5.3 allows."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name in headers:
            value = headers[name] + ("; " if name == "cookie" else ", ") + value
        headers[name] = value
    return headers


def trace_id_of(headers: Mapping[str, str]) -> str:
    """The caller's `x-trace-id`, or the trace id of its W3C `traceparent`, or a new one."""
    given = headers.get("x-trace-id")
    if given is not None and _TRACE_ID.fullmatch(given):
        return given
    parent = headers.get("traceparent")
    if parent is not None and (match := _TRACEPARENT.fullmatch(parent)):
        return match.group(1)
    return new_trace_id()


def _parse_body(body: bytes, content_type: str) -> tuple[str, Any]:
    """The body as text, and as what its content type makes of it; {} if there is none."""
    if not body:
        return "", {}
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise BodyInvalidError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    if "\0" in text:
        raise BodyInvalidError(f"the body has {_NUL}")
    kind = _kind_of(content_type)
    if kind == "application/x-www-form-urlencoded":
        try:
            return text, _parse_fields(text)
        except ValueError as error:
            raise BodyInvalidError(f"the form has {error}") from None
    if kind and not _is_json(kind):
        return text, text
    try:
        value = from_json(body, allow_inf_nan=False)  # refuses lone surrogates, 4,301 digits and 200 levels, too
    except ValueError as error:
        if not kind:
            return text, text
        raise BodyInvalidError(f"the body is not JSON: {error}") from None
    if _has_infinity(value):
        raise BodyInvalidError("the body has a number from 1.8e308 on, which is beyond a double's range")
    if "\\u0000" in text and is_within(value, lambda one: isinstance(one, str) and "\0" in one):
        raise BodyInvalidError(f"the body has {_NUL}")
    return text, value


def _kind_of(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _is_json(kind: str) -> bool:
    return kind == "application/json" or kind.endswith("+json")


def _has_infinity(value: Any) -> bool:
    """Whether plain JSON has a number that became infinite; as `is_within`, but for every body, so without calls."""
    pending = [value]
    for one in pending:
        kind = type(one)
        if kind is dict:
            pending.extend(one.values())
        elif kind is list:
            pending.extend(one)
        elif kind is float and math.isinf(one):
            return True
    return False


def parse_query(query: bytes) -> dict[str, str | list[str]]:
    """Names to values; a name that is repeated has the list of its values. Raises QueryInvalidError."""
    try:
        return _parse_fields(query.decode())
    except UnicodeDecodeError:
        raise QueryInvalidError(f"the query string has {_NO_UTF_8}") from None
    except ValueError as error:
        raise QueryInvalidError(f"the query string has {error}") from None


def _parse_fields(text: str) -> dict[str, str | list[str]]:
    """Names to values; a name that is repeated has the list of its values. Raises ValueError: what it has."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
    except UnicodeDecodeError:
        raise ValueError(_NO_UTF_8) from None
    except ValueError:
        raise ValueError(f"more than {FIELDS_MAX} fields") from None
    if "%00" in text or "\0" in text:
        raise ValueError(_NUL)
    fields: dict[str, str | list[str]] = {}
    for name, value in pairs:
        present = fields.get(name)
        if present is None:
            fields[name] = value
        elif isinstance(present, list):
            present.append(value)
        else:
            fields[name] = [present, value]
    return fields


def _too_large(size_max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"the body is larger than {size_max_bytes} bytes")
