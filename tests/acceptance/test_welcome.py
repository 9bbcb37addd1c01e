"""What scripts/serve says to try works as it stands."""

from __future__ import annotations

import asyncio
import re
import subprocess

import pytest

from tests.acceptance.test_readme import blocks
from tests.conftest import StartServer
from tests.harness import PROGRAM_TIMEOUT_SECONDS, PSQL, StepsFolder, eventually


async def run(command: str, typed: str = "", **environment: str) -> str:
    done = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-c", command],
        input=typed,
        capture_output=True,
        check=True,
        text=True,
        timeout=PROGRAM_TIMEOUT_SECONDS,
        env=environment or None,
    )
    return str(done.stdout)


@pytest.mark.parametrize("folder", ["the README's", "the example"])
async def test_what_it_says_to_try_works(
    start_server: StartServer, database_url: str, steps: StepsFolder, folder: str
) -> None:
    """The commands that it shows, of the folder that it serves: a post, and the history of it in SQL."""
    for name, text in blocks("python"):
        steps.write(name, text)
    path = steps.path if folder == "the README's" else None
    server = await start_server(steps_dir=path, command=["-m", "tidelog.cli", "serve"])
    await eventually(lambda: "stop   Ctrl-C" in server.log())
    said = server.log()
    post = re.search(r"post +(curl .*?)\n +sql ", said, re.DOTALL)
    history = re.search(r"\n +(select .*?;)\n", said, re.DOTALL)
    assert post is not None and history is not None, said
    assert "error" not in await run(post[1])

    async def rows() -> str:
        return await run(f'{PSQL} "$URL" --tuples-only --no-align', history[1], URL=database_url)

    assert "create" in await eventually(rows)
