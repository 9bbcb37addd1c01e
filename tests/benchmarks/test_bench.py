"""`scripts/bench` itself: it runs, and writes what it promises to write."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.contest import Contest, Result, Spread
from tests.benchmarks.processes.websocket import WebSocket
from tests.benchmarks.report import table
from tests.benchmarks.row import Row, at_least, within
from tests.benchmarks.rows import ROWS
from tests.harness import ROOT


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.slow
def test_a_quick_run_of_one_row_writes_json(tmp_path: Path) -> None:
    """One row, one round: the JSON tells the row, its rounds on both sides and the machine."""
    file = tmp_path / "bench.json"
    done = bench("write-bare", "--quick", "--rounds", "2", "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "write-bare" in done.stdout

    told = json.loads(file.read_text())
    assert (told["format"], told["rounds"], told["quick"]) == (1, 2, True)
    assert told["machine"].keys() >= {"cores", "python", "postgres", "load_average_at_start"}
    assert told["revision"]
    (row,) = told["rows"]
    assert (row["name"], row["figure"], row["trouble"]) == ("write-bare", "upserts_per_second", None)
    assert row["aim"] == {"kind": "ratio at least", "limit": 0.75}
    assert isinstance(row["reached"], bool)
    for side in (row["ours"], row["against"]):
        assert len(side["rounds"]) == 2
        assert 0 < side["min"] <= side["median"] <= side["max"]
    assert row["compared"]["rounds"] == [
        ours / against for ours, against in zip(row["ours"]["rounds"], row["against"]["rounds"], strict=True)
    ]
    assert [len(rounds) for rounds in told["sides"].values()] == [2, 2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_row_runs_or_says_why_it_cannot(tmp_path: Path) -> None:
    """All rows, one quick round each: none fails, and the ones that need nothing special have figures."""
    file = tmp_path / "bench.json"
    done = bench("--quick", "--rounds", "1", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    told = {row["name"]: row for row in json.loads(file.read_text())["rows"]}
    assert told.keys() == {row.name for row in ROWS}
    left_out = {name for name, row in told.items() if row["trouble"]}
    assert {
        name for name in left_out if not name.startswith("brokers") and "v1" not in told[name]["ours"]["side"]
    } == set()


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_the_crowd_reads_messages_in_whatever_pieces_they_come(size: int) -> None:
    """Long ones come in several frames, with pings between; and any of them in pieces of the socket's."""
    came: list[bytes] = []

    class Receiving:
        def on_message(self, connection: WebSocket, data: bytes, start: int, end: int) -> None:
            came.append(data[start:end])

    long = b"x" * 300
    frames = b"".join(
        (
            struct.pack("!BB", 0x81, 5) + b"whole",
            struct.pack("!BBH", 0x01, 126, len(long)) + long,
            struct.pack("!BB", 0x89, 0),
            struct.pack("!BB", 0x00, 2) + b"ab",
            struct.pack("!BB", 0x80, 1) + b"c",
            struct.pack("!BB", 0x81, 3) + b"end",
        )
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = WebSocket(Receiving(), ours)
        for begin in range(0, len(frames), size):
            connection.feed(frames[begin : begin + size])
        assert theirs.recv(100)[0] == 0x8A  # the ping's answer
    assert came == [b"whole", long + b"abc", b"end"]


def test_a_row_that_does_not_exist_is_an_error() -> None:
    """A misspelled row is told, and nothing is run."""
    done = bench("wriet")
    assert done.returncode == 1
    assert "wriet" in done.stderr


def test_rows_with_one_side_of_ours_are_measured_together() -> None:
    """A side of ours that several rows need is measured once, and every side only where a row needs it."""
    contests = Contest.of(ROWS)
    assert len({contest.rows[0].ours for contest in contests}) == len(contests)
    assert [row for contest in contests for row in contest.rows if contest.entries.keys() >= {row.ours, row.against}]
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_an_aim_is_judged_by_the_median_of_the_rounds() -> None:
    """Ratios and differences are taken round by round; the median decides, the table shows their spread."""
    ours, against = ROWS[0].ours, ROWS[0].against
    row = Row("r", "", ours, against, "x", at_least(0.5))
    result = Result(row, Spread((2.0, 3.0, 9.0)), Spread((4.0, 5.0, 6.0)), Spread((0.5, 0.6, 1.5)))
    assert result.is_reached
    assert "0.60 (0.50 to 1.50)" in table([result])
    assert row.compare(3.0, 6.0) == 0.5
    assert Row("r", "", ours, against, "x", within(1)).compare(3.0, 1.5) == 1.5
    assert not within(1).is_reached(1.5)
    assert Result(row, trouble="not run: no such program").is_reached is None
