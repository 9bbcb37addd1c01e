"""What `from motia import ...` means in authors' files, and what becomes of triggers that contradict each other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tidelog import motia
from tidelog.errors import NoStepRunningError
from tidelog.runtime.discovery import discover

Write = Callable[[str, str], Path]

HANDLER = "async def handler(input, ctx): pass"
ANSWERING = """
import motia
config = {"type": "api", "name": "Who", "method": "GET", "path": "/who"}
def handler(req):
    return motia.__name__, getattr(motia, "WHO", None)
"""


@pytest.fixture
def steps_dir(tmp_path: Path) -> Path:
    return tmp_path / "project" / "steps"


@pytest.fixture
def write(steps_dir: Path) -> Write:
    def write(path: str, text: str) -> Path:
        file = steps_dir / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text))
        return file

    return write


def who(steps_dir: Path) -> Any:
    """What `import motia` has found in the one step."""
    found = discover(steps_dir)
    assert found.broken == ()
    return found.steps[0].handler({})


def test_motia_is_served_where_it_is_not_installed(write: Write, steps_dir: Path) -> None:
    write("who_step.py", ANSWERING)
    assert who(steps_dir) == ("tidelog.motia", None)


def test_an_authors_own_motia_is_his(write: Write, steps_dir: Path) -> None:
    write("motia.py", "WHO = 'his'")
    write("who_step.py", ANSWERING)
    name, said = who(steps_dir)
    assert (name.endswith("steps.motia"), said) == (True, "his")


def test_an_installed_motia_is_not_shadowed(
    write: Write, steps_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site" / "motia"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("WHO = 'real'")
    monkeypatch.syspath_prepend(tmp_path / "site")
    write("who_step.py", ANSWERING)
    try:
        assert who(steps_dir) == ("motia", "real")
    finally:
        del sys.modules["motia"]


def test_a_folder_that_happens_to_be_called_motia_hides_nothing(
    write: Write, steps_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the one that a checkout of Motia is in."""
    (tmp_path / "around" / "motia").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "around")
    write("who_step.py", ANSWERING)
    assert who(steps_dir) == ("tidelog.motia", None)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: motia.enqueue({"topic": "a", "data": {}}), "enqueue"),
        (lambda: motia.Stream("note").set("g", "i", {}), r"Stream\('note'\)"),
        (lambda: motia.Stream("note").count("g"), r"Stream\('note'\)"),
        (lambda: motia.state_manager.get("g", "k"), r"stateManager\.get"),
    ],
)
def test_what_belongs_to_a_step_says_so_outside_of_one(call: Callable[[], object], what: str) -> None:
    with pytest.raises(NoStepRunningError, match=f"^{what} was called outside of a step"):
        call()


def test_the_logger_logs_outside_of_a_step_too(caplog: pytest.LogCaptureFixture) -> None:
    motia.logger.warn("at the import", {"a": 1})
    assert [(one.name, one.levelname, one.message) for one in caplog.records] == [
        ("tidelog.steps", "WARNING", "at the import")
    ]


def test_a_trigger_that_is_added_renames_no_other(write: Write, steps_dir: Path) -> None:
    """Jobs wait for a step by its name."""
    text = """
    from motia import cron, http, queue, stream
    config = {"name": "Many", "triggers": [%s]}
    async def handler(input, ctx): pass
    """
    write("many_step.py", text % "queue('a'), stream('note'), cron('* * * * *')")
    before = {step.name for step in discover(steps_dir).steps}
    assert before == {"Many:queue:a", "Many:stream:note", "Many:cron"}
    write("many_step.py", text % "http('GET', '/'), queue('b'), queue('a'), stream('note'), cron('* * * * *')")
    assert {step.name for step in discover(steps_dir).steps} == before | {"Many", "Many:queue:b"}


@pytest.mark.parametrize(
    ("triggers", "cause"),
    [
        ("queue('')", "a topic is a text"),
        ("cron('soon')", "which is no time"),
        ("http('GET', 'no-slash')", "must begin with '/'"),
        ("http('GET', '/streams')", "is a route of the server's own"),
        ("http('GET', '/a'), {'type': 'http', 'path': '/a'}", """[2]: config["method"] must be a string"""),
        ("http('GET', '/a', midleware=[])", "config has 'midleware', which no API step has"),
        ("http('GET', '/a', condition=1)", "condition must be a function of (input, ctx), not 1"),
        ("http('GET', '/a', middleware=[print])", "must be `async def middleware(req, context, next_fn)`"),
        ("queue('a', middleware=[handler])", "middleware is for http triggers"),
        ("3", "a trigger is http, queue, cron, stream or state, not 3"),
    ],
)
def test_a_file_with_one_trigger_that_cannot_be_served_is_left_out_whole(
    triggers: str, cause: str, write: Write, steps_dir: Path
) -> None:
    """Half of a step would be a surprise at three in the morning."""
    write(
        "a_step.py",
        f"""
        from motia import cron, http, queue
        async def handler(input, ctx): pass
        config = {{"name": "A", "triggers": [queue("fine"), {triggers}]}}
        """,
    )
    found = discover(steps_dir)
    assert found.steps == ()
    (broken,) = found.broken
    assert cause in broken.cause


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("'condition': lambda input, ctx: False", "a condition is a trigger's"),
        ("'middleware': [mw]", "middleware is a trigger's"),
        ("'auth': None", 'config["auth"] is None: nothing would be guarded'),
        ("'auth': 'requird'", 'config["auth"] must be "required" or "optional"'),
        ("'enqueue': ['a']", "config has 'enqueue'"),
        ("'enqueues': ['']", "a topic is a text"),
    ],
)
def test_what_would_close_a_step_is_done_or_refused(said: str, cause: str, write: Write, steps_dir: Path) -> None:
    """Never passed over."""
    write(
        "a_step.py",
        f"""
        from motia import http
        async def mw(req, ctx, next): return await next()
        async def handler(input, ctx): pass
        config = {{"name": "A", "triggers": [http("GET", "/a")], {said}}}
        """,
    )
    (broken,) = discover(steps_dir).broken
    assert cause in broken.cause


def test_auth_of_a_whole_step_is_for_its_requests(write: Write, steps_dir: Path) -> None:
    """Its queue has no caller who could be asked. One trigger's own goes before it; None there is refused."""
    text = """
    from motia import http, queue
    async def handler(input, ctx): pass
    config = {"name": "A", "auth": "required", "triggers": [http("GET", "/a"), queue("a"), http("GET", "/b", auth=%s)]}
    """
    write("a_step.py", text % "'optional'")
    assert [step.needs_caller for step in discover(steps_dir).steps] == [True, False, False]
    write("a_step.py", text % "None")
    (broken,) = discover(steps_dir).broken
    assert 'config["auth"] is None' in broken.cause
    write(
        "a_step.py",
        "config = {'name': 'A', 'auth': 'required', 'triggers': [{'type': 'queue', 'topic': 'a'}]}\n" + HANDLER,
    )
    (broken,) = discover(steps_dir).broken
    assert "config has 'auth', which is for requests, and no http trigger" in broken.cause
