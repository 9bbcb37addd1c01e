"""What `tidelog check` says of an author's files, beside that they can be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidelog import check
from tidelog.runtime.discovery import discover

EMITTING = """
config = {{
    "type": "api", "name": "{name}", "method": "POST", "path": "/{name}", "emits": {emits}, "virtualEmits": ["drawn"],
}}


async def handler(req, context): ...
"""
SUBSCRIBING = """
config = {"type": "event", "name": "Mail", "subscribes": ["job.started", "job.ended"], "emits": []}


async def handler(input, context): ...
"""


def lines(folder: Path, **files: str) -> list[str]:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return list(check.lines_of(discover(folder)))


def test_a_topic_to_which_no_step_subscribes_is_told(tmp_path: Path) -> None:
    """Once, with who emits it and with the topics that there are: its events would be dropped without a word."""
    emits = ["job.started", {"topic": "job.startd", "label": "begun"}, {"topic": "job.ended", "conditional": True}]
    told = lines(
        tmp_path,
        one_step=EMITTING.format(name="One", emits=emits),
        two_step=EMITTING.format(name="Two", emits=["job.startd"]),
        mail_step=SUBSCRIBING,
    )
    assert [line for line in told if line.startswith("warning")] == [
        "warning    topic 'job.startd', emitted by One, Two: no step subscribes to it, so its events are dropped; "
        "steps subscribe to job.started, job.ended"
    ]


def test_a_topic_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files can be served: the command ends with status 0."""
    lines(tmp_path, one_step=EMITTING.format(name="One", emits=["later"]))
    monkeypatch.setenv("TIDELOG_STEPS_DIR", str(tmp_path))
    check.main()
    assert "'later'" in capsys.readouterr().out


def test_a_folder_in_which_nothing_is_declared_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing printed looks like all is well, and is a wrong folder, or files with other names."""
    monkeypatch.setenv("TIDELOG_STEPS_DIR", str(tmp_path))
    check.main()
    out = capsys.readouterr().out
    assert out.startswith(f"nothing is declared in {tmp_path}: ") and "*_step.py" in out
