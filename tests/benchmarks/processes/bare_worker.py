"""A worker without anything: `bare_worker.py URL WORKERS`. Takes jobs of a table by SKIP LOCKED until it is ended.

Each of its workers has a connection; in one transaction it takes a job, upserts an item, and deletes the job.
"""

from __future__ import annotations

import asyncio
import json
import sys

import asyncpg

from tests.benchmarks.processes.lines import say

TAKE = "select id, input::text from job order by id limit 1 for update skip locked"
SET = (
    "insert into item (group_id, id, data) values ('g', $1, $2::text::jsonb) "
    "on conflict (group_id, id) do update set data = excluded.data returning data::text"
)
END = "delete from job where id = $1"
PAUSE_SECONDS = 0.005  # when there is none


async def work(url: str) -> None:
    connection = await asyncpg.connect(url)
    while True:
        async with connection.transaction():
            job = await connection.fetchrow(TAKE)
            if job is not None:
                input = json.loads(job["input"])
                await connection.fetchval(SET, input["id"], json.dumps(input))
                await connection.execute(END, job["id"])
        if job is None:
            await asyncio.sleep(PAUSE_SECONDS)


async def main(url: str, workers: str) -> None:
    tasks = [asyncio.create_task(work(url)) for _ in range(int(workers))]
    say({"ready": True})
    await asyncio.to_thread(sys.stdin.read)  # until whoever started it is done
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
