"""The least that does what our measured step does: a Litestar handler, an upsert in a transaction, raw asyncpg.

`uvicorn tests.benchmarks.processes.bare_step:app`, with TIDELOG_DATABASE_URL.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from litestar import Litestar, MediaType, Response, get, post
from litestar.datastructures import State

POOL_SIZE = 20  # as ours
UPSERT = (
    "insert into item (group_id, id, data) values ($1, $2, $3::text::jsonb) "
    "on conflict (group_id, id) do update set data = excluded.data returning data::text"
)


@post("/groups/{group:str}/items", status_code=201)
async def set_item(group: str, data: dict[str, Any], state: State) -> Response[bytes]:
    async with state.pool.acquire() as connection, connection.transaction():
        stored = await connection.fetchval(UPSERT, group, data["id"], json.dumps(data))
    return Response(stored.encode(), media_type=MediaType.JSON, status_code=201)


@get("/health/ready")
async def ready() -> str:
    return "ok"


async def _keep(_connection: object) -> None:
    """No reset when a connection goes back to the pool: it would be one more round trip, and ours has none."""


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    url = os.environ["TIDELOG_DATABASE_URL"]
    async with asyncpg.create_pool(url, min_size=POOL_SIZE, max_size=POOL_SIZE, reset=_keep) as pool:
        app.state.pool = pool
        yield


app = Litestar([set_item, ready], lifespan=[lifespan], openapi_config=None, logging_config=None)
