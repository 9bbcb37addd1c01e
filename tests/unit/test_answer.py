"""From what a handler returned to bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from app.errors import AnswerInvalidError
from app.web.answer import encode_answer


class Message(BaseModel):
    text: str


@pytest.mark.parametrize(
    ("body", "encoded"),
    [
        (Message(text="hi"), b'{"text":"hi"}'),
        ([Message(text="hi")], b'[{"text":"hi"}]'),
        ({"at": datetime(2026, 1, 2, tzinfo=UTC)}, b'{"at":"2026-01-02T00:00:00Z"}'),
        (False, b"false"),
        (0, b"0"),
        ({"x": "Infinity"}, b'{"x":"Infinity"}'),
    ],
)
def test_a_body_is_whatever_pydantic_can_turn_into_json(body: Any, encoded: bytes) -> None:
    """Models, dates, plain values; false and 0 are bodies, too."""
    answer = encode_answer({"status": 200, "body": body})
    assert answer.body == encoded
    assert (b"content-length", b"%d" % len(encoded)) in answer.headers


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "text",
        (200, {}),
        {},
        {"body": 1},
        {"status": "200"},
        {"status": True},
        {"status": 100},
        {"status": 600},
        {"status": 200, "bodyy": 1},
        {"status": 200, "body": object()},
        {"status": 200, "body": {"x": [float("inf")]}},
        {"status": 200, "body": float("nan")},
        {"status": 200, "body": "\ud800"},
        {"status": 200, "headers": []},
        {"status": 200, "headers": [("a", "b")]},
        {"status": 200, "headers": {"a b": "c"}},
        {"status": 200, "headers": {"a": 1}},
        {"status": 200, "headers": {"a": ["b", None]}},
        {"status": 200, "headers": {"a": "b\nc"}},
        {"status": 200, "headers": {"a": "\u20ac"}},
        {"status": 200, "headers": {"Content-Length": "3"}},
    ],
)
def test_what_cannot_be_sent_is_refused(answer: Any) -> None:
    """Before anything was sent, and so before anything was committed."""
    if answer == {"status": 200, "headers": []}:
        assert encode_answer(answer).status == 200  # empty is empty
        return
    with pytest.raises(AnswerInvalidError):
        encode_answer(answer)


def test_a_body_that_contains_itself_is_refused() -> None:
    """No endless recursion."""
    body: list[Any] = []
    body.append(body)
    with pytest.raises(AnswerInvalidError):
        encode_answer({"status": 200, "body": body})
