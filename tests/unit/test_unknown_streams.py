"""Names of streams that nobody declared, as clients ask for them."""

from __future__ import annotations

import pytest

from tidelog.web.unknown_streams import NAMES_MAX, UnknownStreams


def test_a_stream_that_is_not_there_is_told_once_with_those_that_are(caplog: pytest.LogCaptureFixture) -> None:
    """However often it is asked for."""
    unknown = UnknownStreams({"job": None, "chatMessage": None})
    for _ in range(3):
        unknown.note("jobs")
    (line,) = caplog.messages
    assert "the stream 'jobs', which is not declared here; declared are: chatMessage, job" in line


def test_who_asks_at_random_fills_neither_log_nor_memory(caplog: pytest.LogCaptureFixture) -> None:
    """Names are a client's to choose: many, long, with line breaks."""
    unknown = UnknownStreams(["job"])
    for number in range(10 * NAMES_MAX):
        unknown.note(f"{number}\n{'x' * 10_000}")
    assert len(caplog.messages) == NAMES_MAX + 1
    assert max(map(len, caplog.messages)) < 250 and not any("\n" in line for line in caplog.messages)
