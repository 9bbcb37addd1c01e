"""Draws results as SVG: how far each row is from its aim, with the spread of its rounds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

from tests.benchmarks.contest import Result
from tests.benchmarks.report import aim_text, number

WIDTH = 900
LEFT, RIGHT = 200, 640  # the plot's edges; names are before, figures behind
TOP, LINE = 64, 24
COLOURS = {True: "#1a7f4b", False: "#b3261e", None: "#5f6b7a"}
DECADE_STEPS = (1, 2, 5)
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2630}.dim{fill:#5f6b7a}.head{font-weight:600;font-size:15px}"
    ".grid{stroke:#e3e7ec}.aim{stroke:#1f2630;stroke-width:2}"
)


def plot(results: Iterable[Result], title: str) -> str:
    """An SVG document. Rows that compare by ratio are on a logarithmic axis; the others are told in words."""
    measured = [result for result in results if result.compared is not None]
    ratios = [result for result in measured if _is_ratio(result)]
    axis = _Axis([value for result in ratios for value in _values(result)])
    bottom = TOP + LINE * len(measured)
    parts = [
        f'<text class="head" x="16" y="26">{escape(title)}</text>',
        '<text class="dim" x="16" y="44">ours against the other side, median and all rounds; the bar is the aim</text>',
    ]
    for step in axis.steps:
        x = axis.x(step)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="dim" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{step:g}</text>')
    for place, result in enumerate(measured):
        parts += _line(result, axis, TOP + LINE * place + LINE / 2)
    height = bottom + 32
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        f'<style>{STYLE}</style><rect width="{WIDTH}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


class _Axis:
    """A logarithmic axis that holds all values, and 1."""

    def __init__(self, values: list[float]) -> None:
        positive = [value for value in values if value > 0] + [1.0]
        self._low = math.log10(min(positive)) - 0.1
        self._high = math.log10(max(positive)) + 0.1
        decades = range(math.floor(self._low), math.ceil(self._high) + 1)
        steps = [step * 10.0**decade for decade in decades for step in DECADE_STEPS]
        self.steps = [step for step in steps if self._low <= math.log10(step) <= self._high]

    def x(self, value: float) -> float:
        place = (math.log10(max(value, 10**self._low)) - self._low) / (self._high - self._low)
        return LEFT + place * (RIGHT - LEFT)


def _line(result: Result, axis: _Axis, y: float) -> list[str]:
    row, compared = result.row, result.compared
    assert compared is not None and result.ours is not None and result.against is not None
    colour = COLOURS[result.is_reached]
    parts = [f'<text x="16" y="{y + 4:.1f}">{escape(row.name)}<title>{escape(row.says)}</title></text>']
    figures = f"{number(result.ours.median)} / {number(result.against.median)} {row.figure.replace('_', ' ')}"
    parts.append(f'<text class="dim" x="{RIGHT + 16}" y="{y + 4:.1f}">{escape(figures)}</text>')
    if not _is_ratio(result):
        told = f"{compared.median:.2f} ({compared.low:.2f} to {compared.high:.2f}), aim: {aim_text(row.aim)}"
        parts.append(f'<text x="{LEFT}" y="{y + 4:.1f}" style="fill:{colour}">{escape(told)}</text>')
        return parts
    if row.aim is not None:
        x = axis.x(row.aim.limit)
        parts.append(f'<line class="aim" x1="{x:.1f}" y1="{y - 8:.1f}" x2="{x:.1f}" y2="{y + 8:.1f}"/>')
    low, high = axis.x(compared.low), axis.x(compared.high)
    parts.append(f'<line x1="{low:.1f}" y1="{y:.1f}" x2="{high:.1f}" y2="{y:.1f}" stroke="{colour}"/>')
    parts += [
        f'<circle cx="{axis.x(value):.1f}" cy="{y:.1f}" r="2" fill="{colour}" opacity="0.5"/>'
        for value in compared.rounds
    ]
    parts.append(f'<circle cx="{axis.x(compared.median):.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>')
    return parts


def _is_ratio(result: Result) -> bool:
    return result.row.aim is None or result.row.aim.kind.startswith("ratio")


def _values(result: Result) -> list[float]:
    assert result.compared is not None
    aim = [] if result.row.aim is None else [result.row.aim.limit]
    return [result.compared.low, result.compared.high, *aim]
