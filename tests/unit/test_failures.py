"""What the log says of a step that failed: the line itself says what went wrong."""

from __future__ import annotations

import logging
from typing import Any

import asyncpg
import pytest

from tidelog.errors import DatabaseUnavailableError
from tidelog.logs.seldom import Seldom
from tidelog.store.failure import in_a_line
from tidelog.web import failures as failures_module
from tidelog.web.failures import SAID_LENGTH_MAX, failure_of


class UntellableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("the bank said no"), "ValueError: the bank said no"),
        (ValueError("two\n lines\x1b[2J"), r"ValueError: two lines\x1b[2J"),
        (KeyError(), "KeyError"),
        (UntellableError(), "UntellableError: its text can't be had (RuntimeError)"),
        (ValueError("long " * 1000), "ValueError: long long"),
        (ValueError("x" * 1000), "ValueError: ..."),  # a part of a secret would not be known for one
    ],
)
def test_the_line_of_a_failed_step_says_what_failed(
    error: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its type and its text, on one line of bounded length, beside the traceback; the client learns none of it."""
    failure = failure_of(error, "step Pay, trace t")
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith(f"step Pay, trace t failed, error id {failure.id}: {said}")
    assert message.isprintable() and len(message) < SAID_LENGTH_MAX + 100
    assert record.levelno == logging.ERROR and record.exc_info and record.exc_info[1] is error
    assert said not in str(failure.body())


def database_error(**fields: Any) -> asyncpg.PostgresError:
    error = asyncpg.CheckViolationError(fields.pop("message"))
    for name, value in fields.items():
        setattr(error, name, value)
    return error


def test_what_postgres_says_is_told_on_one_line() -> None:
    """With its detail and its hint: they are in messages of JSON, where nobody sees line breaks."""
    error = database_error(message="position 9 is no more.", detail="Or it\nwas never.", hint="See streams.floor().")
    assert in_a_line(error) == "position 9 is no more; or it was never.; see streams.floor()."
    assert in_a_line(database_error(message="as it is.")) == "as it is."
    assert in_a_line(database_error(message="no", hint="DELETE it.")) == "no; DELETE it."


def test_a_database_that_is_away_is_told_once_and_not_for_each_request(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them is answered; the log would have nothing else."""
    monkeypatch.setattr(failures_module, "_away", Seldom())
    for number in range(100):
        failure = failure_of(DatabaseUnavailableError("it is gone"), f"step {number}")
        assert (failure.status, failure.code) == (503, "database_unavailable")
    assert len(caplog.records) == 1
