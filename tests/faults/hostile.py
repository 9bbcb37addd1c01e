"""What a hostile client may send, drawn at random: handshakes, frames, and well-framed messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.faults.wire import BINARY, CLOSE, CONTINUATION, HEADERS, PING, PONG, TEXT, frame, request

MESSAGE_SIZE_MAX = 65_536  # as the server under test is started
NORMAL, PROTOCOL_ERROR, INVALID_TEXT, TOO_BIG = 1000, 1002, 1007, 1009
HELLO = '{"hello": "server"}'  # no message of either dialect: it is answered by an error


@dataclass(frozen=True)
class Handshake:
    """Bytes of a first request. `is_whole` if the server has all that it needs to answer."""

    data: bytes
    is_whole: bool = True


@dataclass(frozen=True)
class Breach:
    """Bytes that break the protocol, and the code that the server has to close with (RFC 6455 7.4.1)."""

    data: bytes
    code: int


@dataclass(frozen=True)
class Utterance:
    """A well-framed message; `is_wrong` if it can't be anything but wrong."""

    text: str | bytes
    is_wrong: bool


def bad_handshake(chance: Random) -> Handshake:
    """One that isn't a good handshake for certain, nor an ordinary request."""
    good = request(dict(HEADERS))
    headers = dict(HEADERS)
    match chance.randrange(10):
        case 0:
            return Handshake(good[: chance.randrange(1, len(good) - 1)], is_whole=False)
        case 1:
            headers["sec-websocket-version"] = chance.choice(["", "0", "8", "14", "13, 8", "-1", "x" * 1000])
        case 2:
            headers["sec-websocket-key"] = chance.choice(["", "short", "!" * 24, "A" * 5000, "dGhlIHNhbXBsZQ=="])
        case 3:
            del headers[chance.choice(["sec-websocket-version", "sec-websocket-key"])]
        case 4:
            headers |= {f"x-{number}": "y" * chance.randrange(50) for number in range(chance.randrange(130, 400))}
        case 5:
            headers["x-long"] = "y" * chance.randrange(8_300, 40_000)
        case 6:
            headers["sec-websocket-protocol"] = chance.choice(
                [",", ", ,", "a b", '"x"', "tidelog.v1;", "\xe9", "a," * 3000, "=" * 9000]
            )
            headers["sec-websocket-version"] = "12"
        case 7:
            return Handshake(request(headers, chance.choice(BAD_LINES)))
        case 8:
            return Handshake(chance.randbytes(chance.randrange(1, 3000)) + b"\r\n\r\n", is_whole=False)
        case _:
            name = chance.choice(["x y", "", "\x00", "x\x7f", "\xff"])
            headers[name] = chance.choice(["v", "\x01", "\xff\xfe"])
            headers["sec-websocket-version"] = "7"
    return Handshake(request(headers))


BAD_LINES = [
    "GET / HTTP/9.9", "GET  HTTP/1.1", "BREW / HTTP/1.1", "GET /\x00 HTTP/1.1", "get / HTTP/1.1",
    "GET / HTTP/1.1 HTTP/1.1", "POST / HTTP/1.1", f"GET /{'a' * 9000} HTTP/1.1", "OPTIONS * HTTP/1.1",
]  # fmt: skip


def breach(chance: Random) -> Breach:
    """Frames that break the protocol. What comes before and after is fine, at times."""
    data, code = chance.choice(BREACHES)(chance)
    before = frame(chance.choice([PING, PONG]), b"before") if chance.random() < 0.3 else b""
    after = frame(chance.choice([TEXT, PING]), b"after") if chance.random() < 0.3 else b""
    return Breach(before + data + after, code)


def _bad_utf8(chance: Random) -> bytes:
    return HELLO.encode() + chance.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"])


def _bad_close(chance: Random) -> bytes:
    """A code that may not be sent, half a code, or a reason that is no text."""
    code = chance.choice([0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65_535])
    return chance.choice([code.to_bytes(2, "big") + b"reason", code.to_bytes(2, "big"), b"\x03"])


BREACHES: list[Callable[[Random], tuple[bytes, int]]] = [
    lambda chance: (frame(chance.choice([TEXT, BINARY, PING]), b"{}", masked=False), PROTOCOL_ERROR),
    lambda chance: (frame(TEXT, b"{}", first=0x80 | chance.choice([0x10, 0x20, 0x40, 0x70])), PROTOCOL_ERROR),
    lambda chance: (frame(chance.choice([3, 4, 5, 6, 7, 11, 12, 13, 14, 15]), b"x"), PROTOCOL_ERROR),
    lambda chance: (frame(chance.choice([PING, PONG, CLOSE]), b"x" * chance.randrange(126, 500)), PROTOCOL_ERROR),
    lambda chance: (frame(chance.choice([PING, PONG]), b"x", first=0), PROTOCOL_ERROR),
    lambda _: (frame(CONTINUATION, b"of nothing"), PROTOCOL_ERROR),
    lambda _: (frame(TEXT, b"{", first=0) + frame(PING, b"") + frame(TEXT, b"}"), PROTOCOL_ERROR),
    lambda chance: (frame(TEXT, _bad_utf8(chance)), INVALID_TEXT),
    lambda chance: (frame(TEXT, HELLO.encode(), first=0) + frame(CONTINUATION, _bad_utf8(chance)), INVALID_TEXT),
    lambda chance: (frame(TEXT, b"x", declared=chance.choice([65_537, 2**31, 2**32, 2**62])), TOO_BIG),
    lambda _: (frame(BINARY, b"x" * (MESSAGE_SIZE_MAX + 1)), TOO_BIG),
    lambda _: (frame(TEXT, b"x" * 40_000, first=0) + frame(CONTINUATION, b"x" * 40_000, first=0), TOO_BIG),
    # Who has said good-bye already is told good-bye.
    lambda chance: (frame(TEXT, _bad_utf8(chance)) + frame(CLOSE, b"\x03\xe8"), NORMAL),
    lambda chance: (frame(CLOSE, _bad_close(chance)), PROTOCOL_ERROR),
    lambda _: (frame(CLOSE, b"\x03\xe8\xff\xfe"), INVALID_TEXT),
]


def truncated(chance: Random) -> bytes:
    """The beginning of a frame whose rest never comes."""
    whole = frame(chance.choice([TEXT, BINARY, PING]), b"x" * 100, first=chance.choice([0, 0x80]))
    return whole[: chance.randrange(1, len(whole))]


def in_pieces(message: bytes, chance: Random) -> bytes:
    """A message in fragments, some of them empty, with pings and pongs between them: all of it allowed."""
    cuts = sorted(chance.randrange(len(message) + 1) for _ in range(chance.randrange(1, 8)))
    parts = [message[start:end] for start, end in zip([0, *cuts], [*cuts, len(message)], strict=True)]
    frames = [frame(CONTINUATION if number else TEXT, part, first=0) for number, part in enumerate(parts)]
    return frame(PING, b"between").join(frames) + frame(PONG) + frame(CONTINUATION, b"")


# Names that a key can't be, and others that it could.
WRONG_NAMES: list[Any] = [
    None, 0, -1, 1e308, True, [], {}, "", "\0", "a\0b", "\ud800", "a\udfff", "x" * 1025, "ü" * 9000, [["a"]],
    {"a": {"b": []}}, 10**300, float("nan"), float("inf"), ["a"] * 500,
]  # fmt: skip
ODD_NAMES = [
    "x" * 256,
    "ü" * 256,
    "💥",
    "'; drop table streams.alpha --",
    "\u202e",
    "../..",
    "\\",
    '"',
    " ",
    "\x7f",
    "ﷺ" * 200,
]
WRONG_SINCES: list[Any] = [-1, 2**63, 10**400, 1.0, "1", True, [], {}, float("nan"), -(2**63)]
ODD_SINCES = [0, 1, 5, 10**9, 2**31, 2**63 - 1]
EPOCHS = ["", "x", "\ud800", 7, [], "00000000-0000-0000-0000-000000000000", "E" * 1024, "'", "\0"]
NO_MESSAGES = [
    "", " ", "{", "null", "0", "[]", '"subscribe"', "{}", "[" * 20_000, '{"a":' * 9000, "1" * 30_000, "-", "\ufeff{}",
    '{"type":', "NaN", "1e999999", '{"type":"subscribe"}', '{"type":["subscribe"]}', '{"type":"leave"}',
    '{"type":"join","data":null}', '{"type":"join","data":[]}', '{"type":"unsubscribe"}', '{"type":null,"data":{}}',
    '{"type":"unsubscribe","id":' + "[" * 900 + "]" * 900 + "}", '{"type":{"a":1},"id":"s"}', HELLO,
    '{"type":"join","data":{"streamName":' + '{"a":' * 950 + "1" + "}" * 950 + "}}",
]  # fmt: skip

DEEP = {"tidelog": ('{"type":"subscribe","id":', "}"), "motia": ('{"type":"join","data":{"streamName":', "}}")}


def utterance(chance: Random, dialect: str) -> Utterance:
    """A message in the dialect with something about it."""
    kind = chance.randrange(8)
    if kind == 0:
        return Utterance(chance.choice(NO_MESSAGES), is_wrong=True)
    if kind == 1:
        return Utterance(chance.randbytes(chance.randrange(200)), is_wrong=True)
    if kind == 2:
        depth = chance.choice([*range(880, 1000, 7), *range(1000, 20_000, 1500)])
        before, after = DEEP[dialect]
        return Utterance(before + "[" * depth + "]" * depth + after, is_wrong=True)
    message, names, parts = _good(chance, dialect)
    is_wrong = chance.random() < 0.6
    if dialect == "tidelog" and message["type"] == "subscribe" and chance.random() < 0.4:
        _mutate_place(chance, message, is_wrong=is_wrong)
    else:
        parts[chance.choice(names)] = chance.choice(WRONG_NAMES if is_wrong else ODD_NAMES)
    text = json.dumps(message)
    if chance.random() < 0.2:
        text = text.replace('{"type"', '{"type": "else", "type"', 1)  # the last one holds, as in JSON.parse
    return Utterance(text, is_wrong)


def _good(chance: Random, dialect: str) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """A message without fault, the names in it, and where they are."""
    name, group = f"s{chance.randrange(40)}", f"g{chance.randrange(5)}"
    if dialect == "motia":
        data = {"streamName": "alpha", "groupId": group, "subscriptionId": name}
        if chance.random() < 0.3:
            data["id"] = f"i{chance.randrange(5)}"
        return (
            {"type": chance.choice(["join", "leave"]), "data": data},
            ["streamName", "groupId", "subscriptionId"],
            data,
        )
    if chance.random() < 0.3:
        message = {"type": "unsubscribe", "id": name}
        return message, ["id"], message
    message = {"type": "subscribe", "id": name, "stream": "alpha", "group": group}
    if chance.random() < 0.3:
        message["item"] = f"i{chance.randrange(5)}"
    return message, ["id", "stream", "group"], message


def _mutate_place(chance: Random, message: dict[str, Any], *, is_wrong: bool) -> None:
    message["epoch"] = EPOCHS[5]
    if not is_wrong:
        message["since"] = chance.choice(ODD_SINCES)
    elif chance.random() < 0.3:
        message["cheat" * chance.randrange(1, 500)] = chance.choice(WRONG_NAMES)
    elif chance.random() < 0.3:
        message |= {"since": 1, "epoch": chance.choice([None, "", "\ud800", "\0", 7, [], "E" * 1025])}
    else:
        message["since"] = chance.choice(WRONG_SINCES)
