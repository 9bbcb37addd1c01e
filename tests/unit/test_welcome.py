"""What scripts/serve says to try is true of the folder that it serves."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from tidelog.runtime.discovery import discover
from tidelog.settings import Settings
from tidelog.web.page_rules import PageRules
from tidelog.welcome import welcome

BASE = "http://127.0.0.1:3000"
PAGES = "of http://localhost:*"
HANDLER = "\nasync def handler(req, context): return {'status': 200}\n"


def said_of(folder: Path, **files: str) -> str:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(dedent(text))
    return welcome(BASE, "psql", folder, discover(folder), PAGES)


def step(method: str, path: str, body: str = "None") -> str:
    config = f'{{"type": "api", "name": "Do", "method": "{method}", "path": "{path}", "bodySchema": {body}}}'
    return f"config = {config}{HANDLER}"


def test_the_example_is_said_of_the_example_only(tmp_path: Path) -> None:
    """Its page, its step and its table; nothing of them for any other folder."""
    example = Settings.model_fields["steps_dir"].default
    assert "streams.chat_message" in welcome(BASE, "psql", example, discover(example), PAGES)
    said = said_of(tmp_path / "steps", do_step=step("POST", "/do"))
    assert "chat" not in said.replace(str(tmp_path), "")


def test_an_empty_folder_is_told_what_to_make_in_it(tmp_path: Path) -> None:
    """With its path, and where to find two files to begin with."""
    said = said_of(tmp_path / "steps")
    assert f"nothing to serve in {tmp_path / 'steps'} yet" in said and "*_stream.py" in said and "README.md" in said
    assert "curl" not in said and "select" not in said


def test_a_folder_of_broken_files_is_not_called_empty(tmp_path: Path) -> None:
    """The log says what is wrong with each."""
    said = said_of(tmp_path / "steps", a_step="import nowhere", b_stream="config = 1")
    assert "2 of the files" in said and "the log" in said and "nothing to serve" not in said


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("None", "curl http://127.0.0.1:3000/rooms/demo/do -X POST"),
        (
            '{"required": ["n", "s"], "properties": {"n": {"type": "integer"}, "s": {"enum": ["x"]}}}',
            """-d '{"n": 1, "s": "x"}'""",
        ),
        # Nothing that is shown would be refused: what isn't found is left to the document.
        ('{"type": "object", "required": ["s"], "properties": {"s": {"type": "string", "minLength": 9}}}', None),
        ('{"type": "string", "pattern": "^[0-9]+$"}', None),
    ],
)
def test_a_body_is_shown_that_the_step_takes_or_none(tmp_path: Path, body: str, shown: str | None) -> None:
    """Of its own schema."""
    said = said_of(tmp_path / "steps", do_step=step("POST", "/rooms/:room/do", body))
    if shown is None:
        assert "http://127.0.0.1:3000/rooms/:room/do: the OpenAPI document says what Do takes" in said
        assert "curl" not in said
    else:
        assert shown in said


def test_whose_pages_may_use_the_server_is_said() -> None:
    """With the setting that lets others; so whoever has a page of Vite's knows."""
    for settings, said in (
        (Settings(), "of http://localhost:* and http://127.0.0.1:*"),
        (Settings(cors_origins="https://app.example,null"), "of https://app.example, null"),
        (Settings(cors_origins=""), "of other origins are refused"),
        (Settings(host="192.0.2.1"), "of other origins are refused"),
    ):
        words = PageRules(settings).words
        assert words.startswith(said)
    example = Settings.model_fields["steps_dir"].default
    assert f"pages  {words}; TIDELOG_CORS_ORIGINS" in welcome(BASE, "psql", example, discover(example), words)
