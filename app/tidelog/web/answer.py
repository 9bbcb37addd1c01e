"""From what a handler returned to an HTTP response, encoded in full so that it can fail before the commit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from tidelog.errors import AnswerInvalidError, await_hint, shown
from tidelog.json_text import write
from tidelog.model.item import Item

WITHOUT_BODY = frozenset({204, 205, 304})  # RFC 9110 15.3.5, 15.3.6 and 15.4.5
RESET_CONTENT = 205  # the one of them that says that its body is empty

# What clients take: past it they break off, and what was committed is not known to have been. Node's fail from 16 KiB
# of headers on, Python's http.client at the 101st; the server, CORS and proxies add some of their own.
HEADERS_SIZE_MAX_BYTES = 12 * 1024
HEADERS_MAX = 80

METADATA = "__motia"

_KEYS = frozenset({"status", "body", "headers"})
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # a token: RFC 9110 5.6.2
# What uvicorn sends, with httptools or h11: whatever else is in a header fails when it is sent, after the commit.
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
TRANSACTION_HEADER = b"tidelog-transaction"
_SET_BY_THE_SERVER = frozenset(
    {b"content-length", b"transfer-encoding", b"connection", b"server", b"date", b"x-trace-id", TRANSACTION_HEADER}
)
# Of two of these a client or a proxy may take either, or none: RFC 9110 5.3.
_ONCE = frozenset({b"content-type", b"content-range", b"etag", b"last-modified", b"location", b"retry-after"})

RawHeaders = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Answer:
    """A response, ready to go out."""

    status: int
    headers: RawHeaders
    body: bytes = b""

    async def send(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def encode_answer(answer: Any, *, with_metadata: bool = False) -> Answer:
    """Encode `{"status", "body"?, "headers"?}`, or raise AnswerInvalidError saying what can't be sent.

    A body is JSON for anything that pydantic can turn into it; text and bytes go as they are; None is empty.
    `with_metadata` tells of each item in it where it is stored, as Motia does.
    """
    if not isinstance(answer, Mapping):
        raise AnswerInvalidError(
            f'a handler returns {{"status": 200, "body": ...}}, with "headers" if it likes, not {shown(answer)}'
            + await_hint(shown(answer))
        )
    if unknown := answer.keys() - _KEYS:
        raise AnswerInvalidError(f"an answer has status, body and headers, not {sorted(map(str, unknown))}")
    status = answer.get("status")
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        raise AnswerInvalidError(f"an answer's status is an integer from 200 to 599, not {shown(status)}")
    headers = _encode_headers(answer.get("headers") or {})
    body = answer.get("body")
    content_type, body = _encode_body(_with_metadata(body) if with_metadata else body)
    if status in WITHOUT_BODY:
        if status == RESET_CONTENT:
            headers.append((b"content-length", b"0"))
        return Answer(int(status), headers)
    if content_type is not None and not any(name == b"content-type" for name, _ in headers):
        headers.append((b"content-type", content_type))
    headers.append((b"content-length", b"%d" % len(body)))
    return Answer(int(status), headers, body)


def _encode_body(body: Any) -> tuple[bytes | None, bytes]:
    if body is None:
        return None, b""
    if isinstance(body, bytes | bytearray | memoryview):
        return b"application/octet-stream", bytes(body)
    try:
        if isinstance(body, str):
            return b"text/plain; charset=utf-8", body.encode()
        return b"application/json", _encode_json(body)
    except (ValueError, TypeError, RecursionError, PydanticSerializationError) as error:
        hint = await_hint(str(error))
        raise AnswerInvalidError(f"the answer's body can't be sent as JSON: {error}{hint}") from error


def _encode_json(body: Any) -> bytes:
    try:
        encoded = to_json(body)
    except PydanticSerializationError:  # at 255 levels; an item that was stored by SQL may have more
        return write(body, _plain).encode()
    if b"NaN" in encoded or b"Infinity" in encoded:  # perhaps only in a text
        write(body, _plain)
    return encoded


def _with_metadata(body: Any) -> Any:
    """`body`, with `__motia` in each item that a stream answered, by which Motia's Workbench subscribes to it."""
    if isinstance(body, Item):
        place = {"streamName": body.stream, "groupId": body.group_id, "id": body.get("id")}
        return {**body, METADATA: {"type": "state-stream", **place}}
    if isinstance(body, dict):
        return {name: _with_metadata(value) for name, value in body.items()}
    if isinstance(body, list | tuple):
        return [_with_metadata(value) for value in body]
    return body


def _plain(value: Any) -> Any:
    return to_jsonable_python(value, inf_nan_mode="constants")


def _encode_headers(headers: Any) -> RawHeaders:
    if not isinstance(headers, Mapping):
        raise AnswerInvalidError(f"an answer's headers are a dict, not {shown(headers)}")
    encoded: RawHeaders = []
    for name, values in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise AnswerInvalidError(f"{shown(name)} can't be the name of a header")
        raw_name = name.lower().encode()
        if raw_name in _SET_BY_THE_SERVER:
            raise AnswerInvalidError(f"the header {name!r} is the server's to set")
        for value in values if isinstance(values, list | tuple) else (values,):
            encoded.append((raw_name, _encode_value(name, value)))
    _check_headers(encoded)
    return encoded


def _encode_value(name: str, value: Any) -> bytes:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # as Motia's server, Express, has it
    if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
        raise AnswerInvalidError(
            f"header {name!r}: a value is text without line breaks and control characters, a whole number or a list of "
            f"such, not {shown(value)}"
        )
    try:
        return value.strip(" \t").encode("latin-1")  # what is around a value is none of it (RFC 9110 5.5)
    except UnicodeEncodeError:
        raise AnswerInvalidError(f"header {name!r}: {shown(value)} is not Latin-1") from None


def _check_headers(headers: RawHeaders) -> None:
    """Together they are what a client can take, and no two contradict each other."""
    size = sum(len(name) + len(value) + len(": \r\n") for name, value in headers)
    if size > HEADERS_SIZE_MAX_BYTES or len(headers) > HEADERS_MAX:
        raise AnswerInvalidError(
            f"an answer may have {HEADERS_MAX} headers of {HEADERS_SIZE_MAX_BYTES} bytes together, "
            f"not {len(headers)} of {size}"
        )
    names = [name for name, _ in headers if name in _ONCE]
    if len(names) > len(set(names)):
        raise AnswerInvalidError(f"an answer has one {' and one '.join(sorted(b.decode() for b in set(names)))}")
