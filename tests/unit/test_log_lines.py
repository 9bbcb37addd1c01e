"""A record is one line, without secrets, whatever is in it."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import ROOT, eventually
from tidelog.logs.access import Access, AccessRecord
from tidelog.logs.handler import ACCESS_WAITING_MAX, WRITE_SIZE_MAX, LineHandler
from tidelog.logs.lines import LineFormatter
from tidelog.logs.redaction import TEXT_LENGTH_MAX, Redaction
from tidelog.logs.request import CurrentRequest, current_request
from tidelog.logs.setup import OURS
from tidelog.runtime.loading import PACKAGE

PASSWORD = "s3cret/p@ss"
URL = f"postgresql://me:{PASSWORD}@db.example:5432/app?sslpassword=t0ken-of-ssl"
FORGED = '2026-01-01T00:00:00.000000Z [critical ] forged\r\n{"level": "critical"}\r\x1b[2J\x9b2J\u2028\u202ex\0'


class Log:
    """A logger of the test's own, and what it wrote."""

    def __init__(self, *, as_json: bool) -> None:
        self.stream = io.StringIO()
        self.handler = LineHandler(self.stream, LineFormatter(Redaction.of_database(URL), as_json=as_json))
        self.logger = logging.Logger("tidelog.test")
        self.logger.addHandler(self.handler)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[str]:
        assert self.text.endswith("\n")
        return self.text[:-1].split("\n")

    @property
    def record(self) -> dict[str, Any]:
        """The only one."""
        (line,) = self.lines
        record: dict[str, Any] = json.loads(line, parse_constant=pytest.fail)
        return record


@pytest.fixture
def log() -> Log:
    return Log(as_json=True)


@pytest.fixture(params=[True, False], ids=["json", "text"])
def either(request: pytest.FixtureRequest) -> Log:
    return Log(as_json=request.param)


@pytest.fixture
def request_of_a_step() -> Iterator[None]:
    token = current_request.set(CurrentRequest("Run", "trace-1"))
    yield
    current_request.reset(token)


def fail(message: str) -> None:
    try:
        raise ValueError(message)
    except ValueError as error:
        raise RuntimeError("it failed") from error


def test_a_line_has_time_level_logger_and_message(log: Log) -> None:
    """The time is RFC 3339 in UTC, of the moment at which it was logged."""
    log.logger.warning("a %s", "b")
    record = log.record
    assert (record["level"], record["logger"], record["message"]) == ("warning", "tidelog.test", "a b")
    assert record["time"][10] == "T" and record["time"].endswith("Z")


def test_the_request_is_named_wherever_it_is_logged(log: Log, request_of_a_step: None) -> None:
    """The store, a library or an author's own logger needn't know of it."""
    log.logger.info("x")
    assert (log.record["step"], log.record["trace_id"]) == ("Run", "trace-1")


def test_what_is_given_with_it_is_in_the_record(log: Log) -> None:
    """Also under names that the record has itself, and values that are no JSON."""
    log.logger.info("x", extra={"data": {"o": object, "n": float("nan"), "d": {1: b"\xff"}}, "time": "t", "n": 1})
    record = log.record
    assert (record["time_"], record["n"]) == ("t", 1) and "object" in str(record["data"])


@pytest.mark.parametrize(
    "log_it",
    [
        lambda logger: logger.info(FORGED),
        lambda logger: logger.info("path %s", FORGED),
        lambda logger: logger.info("x", extra={"trace_id": FORGED, "data": {"id": FORGED}, FORGED: 1}),
        lambda logger: logger.info("x", extra={"id": "\x1b[2J"}),
        lambda logger: logger.info("not %d", FORGED),
    ],
    ids=["message", "argument", "extra", "escapes only", "wrong argument"],
)
def test_no_text_begins_a_line_or_moves_the_cursor(either: Log, log_it: Any) -> None:
    """A client can't forge lines by what it sends."""
    log_it(either.logger)
    (line,) = either.lines
    assert line.isprintable()


def test_a_traceback_is_of_its_record(log: Log) -> None:
    """As JSON it is a field."""
    try:
        fail(FORGED)
    except RuntimeError:
        log.logger.exception("failed")
    assert log.record["message"] == "failed"
    assert "ValueError: " + FORGED[:20] in log.record["exception"]
    assert log.record["exception"].endswith("RuntimeError: it failed")


def test_a_traceback_stands_below_its_line_for_people() -> None:
    """Indented, so that what looks like a line in an error's message is none."""
    log = Log(as_json=False)
    try:
        fail(FORGED)
    except RuntimeError:
        log.logger.exception("failed")
    first, *below = log.lines
    assert "failed" in first
    assert "    RuntimeError: it failed" in below
    assert all(line.startswith("    ") and line.isprintable() for line in below)


@pytest.mark.parametrize(
    "text",
    [
        f"can't connect to {URL}",
        "can't connect to postgresql+asyncpg://me:other-s3cret@h/db",
        f"password {PASSWORD} failed",
        "sslpassword is t0ken-of-ssl",
        "GET https://api.example/x?key=s3cret",
        "GET /x?a=1&access_token=s3cret&b=2",
        "Authorization: Bearer s3cret-s3cret",
        "{'authorization': 'Basic s3cret'}",
        '{"x-api-key": "s3cret"}',
        "password = s3cret",
        "a Bearer s3cret-s3cret in a text",
        "a JWT: eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJzM2NyZXQifQ.s3cret",
    ],
)
def test_secrets_are_taken_out(either: Log, text: str) -> None:
    """Of messages, values and tracebacks."""
    either.logger.info(text)
    either.logger.info("x", extra={"data": [text], "url": text})
    try:
        fail(text)
    except RuntimeError:
        either.logger.exception("failed")
    logged = either.text.replace("test_log_lines", "")
    assert not [secret for secret in ("s3cret", "t0ken", "p@ss", "eyJzdWI") if secret in logged], logged


def test_values_with_the_names_of_secrets_are_taken_out(log: Log) -> None:
    """Of headers and bodies that an author logs as they are; numbers stay, as an LLM's tokens are counted."""
    headers = {"Authorization": "s3cret", "cookie": "a=s3cret", "X-Api-Key": "s3cret", "accept": "*/*"}
    log.logger.info("x", extra={"data": {"headers": headers, "max_tokens": 12, "tokens": ["s3cret"]}})
    assert "s3cret" not in log.text
    assert log.record["data"]["headers"]["accept"] == "*/*" and log.record["data"]["max_tokens"] == 12


def test_what_is_no_secret_stays(log: Log) -> None:
    """An address, a user's name, counts of tokens."""
    text = "postgresql://me@db.example:5432/app said: tokens: 1200 at https://x.example/y, mail ada@example.com"
    log.logger.info(text)
    assert log.record["message"] == text


@pytest.mark.parametrize("piece", ["x", "a://b:", "token=", "eyJaaaaaaaaaaaaa.", "://u:p", "bearer "])
def test_a_long_text_is_shortened_in_its_middle(log: Log, piece: str) -> None:
    """Its beginning and end stay, and the search for secrets in it has an end."""
    log.logger.info("begin " + piece * 1_000_000 + " end")
    message = log.record["message"]
    assert message.startswith("begin ") and message.endswith(" end") and len(message) < 2 * TEXT_LENGTH_MAX


def test_large_data_becomes_a_text(log: Log) -> None:
    """The line stays JSON, and within a bound."""
    log.logger.info("x", extra={"data": {str(n): n for n in range(100_000)}})
    assert isinstance(log.record["data"], str) and len(log.text) < 2 * TEXT_LENGTH_MAX


def test_an_access_record_has_the_same_form_as_the_others(log: Log) -> None:
    """It is written without structlog; what it begins with, and the request's fields, are as in every line."""
    log.logger.handle(AccessRecord(Access(0.0, "GET", '/a"b', None, 1.5, 0, None, "t")))
    access = log.record
    log.stream.seek(0)
    log.stream.truncate()
    token = current_request.set(CurrentRequest("Run", "t"))
    log.logger.info("request")
    current_request.reset(token)
    assert [key for key in access if key in log.record] == list(log.record)
    assert access["path"] == '/a"b' and access["status"] is None and access["step"] is None


async def test_access_lines_are_written_together_and_in_order(log: Log) -> None:
    """A few at a time, as many as a pipe keeps together; what is logged between them stays between them."""
    written: list[str] = []
    log.stream.write = lambda text: written.append(text) or io.StringIO.write(log.stream, text)  # type: ignore
    for number in range(ACCESS_WAITING_MAX + 10):
        log.handler.access(Access(0.0, "GET", f"/{number}", 200, 1.5, 12, "Run", "t"))
    assert "".join(written).count("\n") == ACCESS_WAITING_MAX > 5 * len(written)
    assert all(len(text) <= WRITE_SIZE_MAX and text.endswith("\n") for text in written)
    log.logger.info("between")
    log.handler.access(Access(0.0, "GET", "/last", 200, 1.5, 12, "Run", "t"))
    await eventually(lambda: "/last" in log.stream.getvalue())
    records = [json.loads(line) for line in log.lines]
    assert [record.get("path") for record in records] == [
        *(f"/{number}" for number in range(ACCESS_WAITING_MAX + 10)),
        None,
        "/last",
    ]


async def test_a_log_that_can_not_be_written_fails_nobody() -> None:
    """A closed pipe, a full disk: the request that is logged is answered all the same."""
    log = Log(as_json=True)
    log.stream.close()
    for _ in range(ACCESS_WAITING_MAX):
        log.handler.access(Access(0.0, "GET", "/", 200, 1.5, 12, "Run", "t"))
    log.logger.error("x")


def test_a_record_of_an_operators_own_logging_has_the_fields() -> None:
    """Any handler finds them where `extra` puts them, and a message that says the most."""
    record = AccessRecord(Access(0.0, "GET", "/a", 200, 1.5, 12, "Run", "t"))
    assert logging.Formatter("%(message)s %(step)s %(trace_id)s").format(record) == "GET /a 200 Run t"


def test_the_authors_files_are_ours_to_show() -> None:
    """`logging.getLogger(__name__)` in a step's file is heard from TIDELOG_LOG_LEVEL on."""
    assert PACKAGE in OURS


PROGRAM = """
import logging, sys, threading, warnings
{before}
from tidelog.logs.setup import configure
from tidelog.settings import Settings
print(configure(Settings()) is not None)
logging.getLogger("tidelog.x").info("ours")
logging.getLogger("library").info("of a library")
warnings.warn("a warning")
threading.Thread(target=lambda: 1 / 0).start()
raise OSError("the end")
"""


def run(before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_everything_that_a_process_tells_is_a_record() -> None:
    """Also what Python prints by itself: warnings, and the errors that end a thread or the process."""
    records = [json.loads(line) for line in run().stderr.splitlines()]
    assert [record["logger"] for record in records] == ["tidelog.x", "py.warnings", "tidelog", "tidelog"]
    assert "ZeroDivisionError" in records[2]["exception"] and "OSError: the end" in records[3]["exception"]


def test_level_and_format_are_settings() -> None:
    """In any case of letters."""
    done = run(TIDELOG_LOG_LEVEL="ERROR", TIDELOG_LOG_FORMAT="Text")
    assert "ours" not in done.stderr and "a warning" not in done.stderr
    assert "[critical ] the process ends with an error" in done.stderr
    assert run(TIDELOG_LOG_LEVEL="loud").returncode == 1


def test_an_operators_own_logging_is_left_alone() -> None:
    """Where the root logger has a handler, nothing is added, and nothing changed."""
    done = run("logging.basicConfig(level='INFO', format='mine %(message)s')")
    assert done.stdout == "False\n"
    assert done.stderr.startswith("mine ours\nmine of a library\n")


@pytest.mark.parametrize(
    "url",
    [
        "host=h password=hush-1 user=u",
        "host=h password = 'hush-1' user=u",
        r"password='hush\-1'",
        "postgresql://u:hush%2D1@h/d",
    ],
)
def test_a_password_is_known_in_every_form_of_a_database_url(url: str) -> None:
    """As it is sent, wherever it stands."""
    assert Redaction.of_database(url).text("the server said hush-1!") == "the server said ***!"
