"""Tells what was measured: a table for people, JSON for whoever compares runs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from tests.benchmarks.contest import Contest, Result, Spread
from tests.benchmarks.row import Aim

HEADINGS = ("row", "figure", "ours", "against", "", "compared (min to max)", "aim", "")
MARKS = {True: "reached", False: "MISSED", None: ""}
NOTE_WIDTH = 118


def table(results: Iterable[Result]) -> str:
    """One line for each row; below it, why rows have no figures."""
    lines: list[Sequence[str]] = [HEADINGS]
    notes = []
    for result in results:
        row = result.row
        if result.ours is None or result.against is None or result.compared is None:
            lines.append((row.name, row.figure, "-", "-", row.against.name, "-", aim_text(row.aim), ""))
            notes.append(textwrap.fill(f"{row.name}: {result.trouble}", NOTE_WIDTH, subsequent_indent="  "))
            continue
        lines.append(
            (
                row.name,
                row.figure,
                number(result.ours.median),
                number(result.against.median),
                row.against.name,
                _spread_text(result.compared),
                aim_text(row.aim),
                MARKS[result.is_reached],
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    told = []
    for line in lines:
        cells = [
            cell.rjust(width) if column in (2, 3) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        told.append("  ".join(cells).rstrip())
    told.insert(1, "-" * max(map(len, told)))
    return "\n".join([*told, *([""] if notes else []), *notes])


def document(
    results: Iterable[Result], contests: Iterable[Contest], *, facts: dict[str, Any], **about: Any
) -> dict[str, Any]:
    """All that is known of a run, for JSON. `sides` has every figure of every round."""
    return {
        **about,
        "machine": facts,
        "rows": [_row(result) for result in results],
        "sides": {
            entry.side.name: [dict(figures) for figures in entry.rounds]
            for contest in contests
            for entry in contest.entries.values()
            if entry.rounds
        },
    }


def aim_text(aim: Aim | None) -> str:
    """The aim in a few characters."""
    if aim is None:
        return "shown"
    sign = ">=" if aim.kind == "ratio at least" else "<="
    prefix = {"difference at most": "ours - theirs ", "ours at most": "ours "}.get(aim.kind, "")
    return f"{prefix}{sign} {aim.limit:g}"


def number(value: float) -> str:
    """Three or four digits that say something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _spread_text(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"


def _row(result: Result) -> dict[str, Any]:
    row = result.row
    told: dict[str, Any] = {
        "name": row.name,
        "says": row.says,
        "figure": row.figure,
        "aim": None if row.aim is None else {"kind": row.aim.kind, "limit": row.aim.limit},
        "reached": result.is_reached,
        "trouble": result.trouble,
    }
    for key, side, spread in (("ours", row.ours, result.ours), ("against", row.against, result.against)):
        told[key] = {"side": side.name} | ({} if spread is None else _spread(spread))
    told["compared"] = None if result.compared is None else _spread(result.compared)
    return told


def _spread(spread: Spread) -> dict[str, Any]:
    return {"median": spread.median, "min": spread.low, "max": spread.high, "rounds": list(spread.rounds)}
