"""Authors' own test runs with `tidelog.testing`: whole runs of pytest, each in a project of its own."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.harness import PROGRAM_TIMEOUT_SECONDS, are_gone, eventually
from tidelog.testing.databases import PREFIX

pytestmark = pytest.mark.slow

STREAM = """
from pydantic import BaseModel


class Job(BaseModel):
    title: str


config = {"name": "job", "schema": Job, "baseConfig": {"storageType": "default"}}
"""
STEP = """
from words import title_of

config = {"type": "api", "name": "Start", "method": "POST", "path": "/jobs/:id", "emits": []}


async def handler(req, context):
    id = req["pathParams"]["id"]
    if id == "bad":
        raise ValueError("a step's own fault")
    return {"status": 201, "body": await context.streams.job.set("all", id, {"title": title_of(id)})}
"""
WORDS = 'def title_of(id):\n    return f"the job {id}"\n'
CONFTEST = """
from pathlib import Path

import pytest

pytest_plugins = ["tidelog.testing"]


@pytest.fixture
def tidelog_steps_dir():
    return Path(__file__).parent / "steps"
"""
PASSES = """
async def test_passes(client, streams, recorder, settled):
    async with recorder("job", "all") as seen:
        assert (await client.post("/jobs/7")).status_code == 201
        await settled()
        assert seen.items == {"7": {"id": "7", "title": "the job 7"}}
    assert [job["id"] for job in await streams.job.get_group("all")] == ["7"]
"""
HANGS = """
import asyncio


async def test_hangs(client, recorder):
    async with recorder("job", "all"):
        print("hanging", flush=True)
        await asyncio.Event().wait()
"""
AUTO = ("-o", "asyncio_mode=auto")


def listen_to_ctrl_c() -> None:
    """What a shell began in the background, as these tests may have been, ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Project:
    """Somebody's project, with a folder of steps and tests."""

    def __init__(self, folder: Path, server_url: str) -> None:
        self.folder = folder
        self.server_url = server_url
        self._begun: list[subprocess.Popen[str]] = []
        self.write(**{"steps/job_stream.py": STREAM, "steps/start_step.py": STEP, "words.py": WORDS})
        self.write(**{"conftest.py": CONFTEST, "pytest.ini": "[pytest]\nfilterwarnings = error\n"})

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_text(text)

    def environment(self, **others: str) -> dict[str, str]:
        ours = ("TIDELOG_", "PYTEST_", "PYTHON")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return kept | {"TIDELOG_TEST_DATABASE_URL": self.server_url, "PYTHONDONTWRITEBYTECODE": "1"} | others

    def command(self, *options: str) -> list[str]:
        fixture_loop = "asyncio_default_fixture_loop_scope=function"  # unset, it is a warning of pytest-asyncio's
        return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", fixture_loop, *options]

    def run(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A whole run."""
        return subprocess.run(
            self.command(*options),
            cwd=self.folder,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=PROGRAM_TIMEOUT_SECONDS,
        )

    def begin(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        """A run that hangs."""
        process = subprocess.Popen(
            self.command("-s", *AUTO, *options),
            cwd=self.folder,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=listen_to_ctrl_c,
        )
        self._begun.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if "hanging" in line:
                return process
        raise AssertionError("it did not begin")

    def end(self) -> None:
        """End the runs that a test has left."""
        for process in self._begun:
            if process.poll() is None:
                process.kill()
                process.communicate()


@pytest.fixture
def project(postgres_url: str) -> Iterator[Project]:
    """Not in pytest's folders, which are closed to other users: as root, Postgres runs as one."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder), postgres_url)
        try:
            yield project
        finally:
            project.end()


def outcome(done: subprocess.CompletedProcess[str]) -> str:
    """The counts of its last line."""
    return re.sub(r" in .*", "", done.stdout.strip().splitlines()[-1].strip("= "))


async def databases_left(server_url: str, pid: int) -> list[str]:
    """Those of a run."""
    connection = await asyncpg.connect(server_url)
    try:
        rows = await connection.fetch("select datname from pg_database where datname like $1", f"{PREFIX}{pid}\\_%")
        return [row[0] for row in rows]
    finally:
        await connection.close()


def test_fixtures_run_in_the_loop_of_the_test(project: Project) -> None:
    """Whatever its scope, by the mark or by the configuration, and in both modes of pytest-asyncio."""
    for scope in ("function", "class", "module", "package", "session"):
        mark = f"import pytest\n\npytestmark = pytest.mark.asyncio(loop_scope={scope!r})\n"
        project.write(**{f"test_{scope}.py": mark + PASSES + PASSES.replace("passes", "passes_again")})
    done = project.run("-o", "asyncio_mode=strict")
    assert outcome(done) == "10 passed", done.stdout
    project.write(**{"test_unmarked.py": PASSES + PASSES.replace("passes", "passes_again")})
    done = project.run(*AUTO, "-o", "asyncio_default_test_loop_scope=session", "test_unmarked.py")
    assert outcome(done) == "2 passed", done.stdout


def test_workers_have_databases_of_their_own(project: Project) -> None:
    """Of pytest-xdist."""
    pytest.importorskip("xdist")
    tests = "\n".join(PASSES.replace("passes", f"passes_{number}") for number in range(6))
    project.write(**{"test_jobs.py": tests})
    done = project.run(*AUTO, "-n", "2")
    assert outcome(done) == "6 passed", done.stdout


def test_what_goes_wrong_in_a_test_is_told_and_harms_no_other(project: Project) -> None:
    """A failure, a step that raises, calls that were not awaited, a recording that is left open."""
    project.write(**{
        "test_jobs.py": """
        import asyncio

        async def test_fails(client, streams):
            await streams.job.set("all", "1", {"title": "x"})
            assert await streams.job.get_group("all") == []

        async def test_a_step_raises(client):
            answer = await client.post("/jobs/bad")
            assert answer.status_code == 201, answer.text

        async def test_forgets_to_await_a_call(streams):
            streams.job.set("all", "1", {"title": "x"})

        async def test_forgets_to_await_settled(settled):
            settled()

        async def test_leaves_a_recording_open(recorder, streams):
            await recorder("job", "all").__aenter__()
            await streams.job.set("all", "1", {"title": "x"})

        async def test_is_as_if_nothing_had_been(client, streams):
            assert await streams.job.get_group("all") == []

        def test_is_no_coroutine(client, streams, monkeypatch):
            pass

        async def test_puts_something_else_in_a_steps_place(client, monkeypatch):
            monkeypatch.setattr("tidelog_project.steps.start_step.title_of", lambda id: "theirs")
            assert (await client.post("/jobs/7")).json()["title"] == "theirs"
    """.replace("\n        ", "\n")
    })  # fmt: skip
    done = project.run(*AUTO)
    assert outcome(done) == "2 failed, 6 passed, 2 errors", done.stdout
    for said in (
        "ValueError: a step's own fault",  # in the captured log
        "calls on streams that were not awaited: set",
        "settled() was not awaited",
    ):
        assert said in done.stdout
    assert "was never awaited" not in done.stdout + done.stderr


def test_what_an_author_has_to_mend_is_said_in_a_line(project: Project) -> None:
    """A broken file, a missing folder, a server that isn't there, and none that could be."""
    project.write(**{"test_jobs.py": PASSES, "steps/broken_step.py": "config = {\n"})
    done = project.run(*AUTO)
    assert re.search(r"steps/broken_step\.py: line 1: SyntaxError", done.stdout), done.stdout
    (project.folder / "steps/broken_step.py").unlink()
    away = project.run(*AUTO, TIDELOG_TEST_DATABASE_URL="postgresql://nobody@127.0.0.1:9/none")
    assert "can't connect to the database of TIDELOG_TEST_DATABASE_URL" in away.stdout
    no_url = project.run(*AUTO, TIDELOG_TEST_DATABASE_URL="localhost")
    assert "is no URL" in no_url.stdout
    project.write(**{"without_wheel.py": "import sys\n\nsys.modules['psutil'] = None\n"})
    environment = {"TIDELOG_TEST_DATABASE_URL": ""}
    none = project.run(*AUTO, "-p", "without_wheel", **environment, PYTHONPATH=str(project.folder))
    assert "TIDELOG_TEST_DATABASE_URL is not set" in none.stdout
    assert "pip install 'tidelog[embedded]'" in none.stdout
    shutil.rmtree(project.folder / "steps")
    missing = project.run(*AUTO)
    assert f"there is no folder {project.folder / 'steps'}" in missing.stdout
    for one in (done, away, no_url, none, missing):
        assert outcome(one) == "1 error", one.stdout
        assert "Traceback" not in one.stdout and "def " not in one.stdout, one.stdout


async def test_ctrl_c_leaves_nothing(project: Project) -> None:
    """In the middle of a test: pytest ends it, and its fixtures."""
    project.write(**{"test_hangs.py": HANGS})
    process = await asyncio.to_thread(project.begin)
    assert await databases_left(project.server_url, process.pid)
    process.send_signal(signal.SIGINT)
    output, _ = await asyncio.to_thread(process.communicate, timeout=PROGRAM_TIMEOUT_SECONDS)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert await databases_left(project.server_url, process.pid) == []


async def test_the_next_run_removes_what_a_killed_one_left(project: Project) -> None:
    """Databases on a server that is shared."""
    project.write(**{"test_hangs.py": HANGS, "test_jobs.py": PASSES})
    process = await asyncio.to_thread(project.begin, "test_hangs.py")
    process.kill()
    await asyncio.to_thread(process.communicate)
    assert await databases_left(project.server_url, process.pid)

    async def is_clean_after_a_run() -> bool:  # the killed run's session may be there for a moment
        done = await asyncio.to_thread(project.run, *AUTO, "test_jobs.py")
        assert outcome(done) == "1 passed", done.stdout
        return not await databases_left(project.server_url, process.pid)

    await eventually(is_clean_after_a_run)


def test_the_embedded_servers_of_runs_are_theirs(project: Project) -> None:
    """One for all workers, gone with them. The next run leaves a living run's, and removes a killed one's."""
    pytest.importorskip("xdist")
    tests = "\n".join(PASSES.replace("passes", f"passes_{number}") for number in range(2))
    project.write(**{"test_hangs.py": HANGS, "test_jobs.py": tests})
    temporary = project.folder / "tmp"
    temporary.mkdir()
    temporary.chmod(0o755)
    # Root's Postgres is another user, who has to get there.
    project.folder.chmod(0o755)
    environment: dict[str, Any] = {"TIDELOG_TEST_DATABASE_URL": "", "TMPDIR": str(temporary)}

    def folders() -> list[Path]:
        return [path for path in temporary.iterdir() if path.is_dir() and path.name.startswith("tidelog-tests-")]

    process = project.begin("test_hangs.py", **environment)
    assert outcome(project.run(*AUTO, "test_jobs.py", **environment)) == "2 passed"
    (left,) = folders()
    assert (left / "postgres/postmaster.pid").exists()
    process.kill()
    process.communicate()
    done = project.run(*AUTO, "test_jobs.py", "-n", "2", **environment)
    assert outcome(done) == "2 passed", done.stdout
    assert folders() == []
    assert are_gone(temporary)
