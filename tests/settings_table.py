"""The table of settings in scripts/README.md, made from the settings: `python -m tests.settings_table` writes it."""

from __future__ import annotations

import re

from tests.harness import ROOT
from tidelog.settings import Settings

PAGE = ROOT / "scripts/README.md"
BEGIN, END = "<!-- settings: python -m tests.settings_table -->\n", "<!-- end of settings -->\n"


def table() -> str:
    rows = ["| variable | default | what |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else f"`{field.default}`"
        rows.append(
            f"| `TIDELOG_{name.upper()}` | {default} | {(field.description or '').replace('|', chr(92) + '|')} |"
        )
    return "\n".join(rows) + "\n"


def with_table(page: str) -> str:
    return re.sub(f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", lambda _: table(), page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
