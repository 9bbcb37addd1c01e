"""`scripts/bench`: measures rows, prints a table, writes JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

from tests.benchmarks.contest import Contest, Result
from tests.benchmarks.ground import Ground, Scale
from tests.benchmarks.machine import machine_facts, revision
from tests.benchmarks.report import document, table
from tests.benchmarks.row import Row
from tests.benchmarks.rows import ROWS

FORMAT = 1  # of the JSON; to be raised when a reader of the old one would be misled


def main() -> int:
    """Run what the command line asks for; 1 if a row failed or the command line is wrong, else 0.

    A missed aim is no failure: the figures depend on the machine, and people judge them.
    """
    arguments = _arguments()
    if arguments.list:
        for row in ROWS:
            print(f"{row.name:32} {row.says}")
        return 0
    rows = _select(arguments.rows)
    _allow_many_sockets()
    with tempfile.TemporaryDirectory(prefix="tidelog-bench-") as folder:
        Path(folder).chmod(0o755)  # Postgres is another user's if we are root
        results = asyncio.run(_run(rows, Path(folder), arguments))
    return 1 if any("failed" in (result.trouble or "") for result in results) else 0


async def _run(rows: Sequence[Row], folder: Path, arguments: argparse.Namespace) -> list[Result]:
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {what}", file=sys.stderr, flush=True)

    results: list[Result] = []
    contests = Contest.of(rows)
    started_at = datetime.now(UTC)
    async with Ground(folder, Scale(arguments.quick)) as ground:
        facts = await machine_facts(ground)
        for contest in contests:
            results += await contest.run(ground, arguments.rounds, tell)
    print(table(results))
    told = document(
        results,
        contests,
        facts=facts,
        format=FORMAT,
        at=started_at.isoformat(timespec="seconds"),
        revision=revision(),
        seconds=round(time.monotonic() - began),
        rounds=arguments.rounds,
        quick=arguments.quick,
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(told, indent=1) + "\n")
    return results


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help="a row's name, or a pattern such as 'fan-out*'; none: all"
    )
    parser.add_argument("--rounds", type=_positive, default=5, help="how often each side is measured (5)")
    parser.add_argument("--quick", action="store_true", help="sizes too small to mean anything, to see that it runs")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), metavar="FILE", help="bench.json")
    parser.add_argument("--list", action="store_true", help="name the rows, and stop")
    return parser.parse_args()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _select(patterns: Sequence[str]) -> list[Row]:
    for pattern in patterns:
        if not any(fnmatchcase(row.name, pattern) for row in ROWS):
            sys.exit(f"scripts/bench: no row is named {pattern!r}; scripts/bench --list names them")
    return [row for row in ROWS if not patterns or any(fnmatchcase(row.name, pattern) for pattern in patterns)]


def _allow_many_sockets() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
