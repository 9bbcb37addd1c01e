"""The upsert that writers are measured by, and pgbench, which says it with many clients."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.ground import Postgres
from tests.benchmarks.text import TEXT

CLIENTS = 32
THREADS = 2
ITEMS = 10_000  # all of them are there before the first round: every upsert is an update

# Every item differs from the one before it, as an update that changes nothing costs us nothing.
SCRIPT = """
\\set group random(1, {groups})
\\set item random(1, {items})
\\set n random(1, 2000000000)
insert into {table} as item (group_id, id, data)
values ('g' || cast(:group as int), 'i' || cast(:item as int),
        jsonb_build_object('n', cast(:n as text), 'id', 'i' || cast(:item as int), 'text', '{text}'))
on conflict (group_id, id) do update set data = excluded.data;
"""

FILL = """
insert into {table} (group_id, id, data)
select 'g' || g, 'i' || i, jsonb_build_object('n', '0', 'id', 'i' || i, 'text', '{text}')
from generate_series(1, {groups}) g, generate_series(1, {items}) i
"""


@dataclass(frozen=True)
class Load:
    """Upserts into `table`, spread over this many groups."""

    table: str
    groups: int

    @property
    def fill(self) -> str:
        """SQL that makes all the items."""
        return FILL.format(table=self.table, groups=self.groups, items=ITEMS // self.groups, text=TEXT)

    def write_script(self, folder: Path) -> Path:
        path = folder / "upsert.sql"
        path.write_text(SCRIPT.format(table=self.table, groups=self.groups, items=ITEMS // self.groups, text=TEXT))
        return path


@dataclass(frozen=True)
class Run:
    """What pgbench did: transactions, and for how long without the time to connect."""

    transactions: int
    seconds: float


async def run_pgbench(
    postgres: Postgres, url: str, script: Path, *limit: str, clients: int = CLIENTS, settings: str = ""
) -> Run:
    """Run it with a `limit`: "--time=5", or "--transactions=100" for each client. Raises RuntimeError with its output.

    Statements are prepared, as drivers do. `settings` are Postgres's for the session: "-c name=value".
    """
    command = [
        postgres.program("pgbench"), "--no-vacuum", "--protocol=prepared", f"--client={clients}",
        f"--jobs={min(THREADS, clients)}", f"--file={script}", *limit, url,
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PGOPTIONS": settings},
    )
    try:
        output, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    told = output.decode()
    done = re.search(r"transactions actually processed: (\d+)", told)
    failed = re.search(r"number of failed transactions: (\d+)", told)
    rate = re.search(r"tps = ([\d.]+)", told)
    if process.returncode or not done or not rate or not failed or failed.group(1) != "0":
        raise RuntimeError(f"pgbench ended with {process.returncode}: {told[-1000:]}")
    return Run(int(done.group(1)), int(done.group(1)) / float(rate.group(1)))
