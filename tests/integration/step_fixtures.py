"""A server with steps made up by a test, on a database of its own."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from litestar import Litestar
from sqlalchemy.engine import make_url

from tests.harness import Databases, migrate
from tidelog.model.schema import compile_declared, schema_of
from tidelog.model.step import Step, endpoints_of
from tidelog.model.stream import Stream
from tidelog.model.trigger import HttpTrigger
from tidelog.runtime.runner import Runtime
from tidelog.runtime.threads import HandlerThreads
from tidelog.settings import Settings
from tidelog.store.engine import Database
from tidelog.web.failures import exception_handlers
from tidelog.web.openapi import openapi_config, with_steps
from tidelog.web.paths import StepsApp, hidden_route
from tidelog.web.steps import step_controllers

CONFIG = {
    "name": "chatMessage",
    "schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    "baseConfig": {"storageType": "default"},
}
STREAM = Stream.from_config(CONFIG)

BODY_SIZE_MAX_BYTES = 10_000


class StepKit:
    """What a step test stands on: its database, and servers for the steps that it makes up."""

    def __init__(self, url: str, database: Database, settings: Settings) -> None:
        self.url = url
        self.database = database
        self.settings = settings
        self.threads = HandlerThreads()

    def app(self, *steps: Step, database: Database | None = None, **options: Any) -> Litestar:
        """`options` are Litestar's own."""
        runtime = Runtime({STREAM.name: STREAM}, database or self.database, self.settings, self.threads, steps)
        endpoints = endpoints_of(steps)
        return StepsApp(
            [http for _, http in endpoints],
            route_handlers=[*step_controllers(endpoints, runtime, hidden_route)],
            exception_handlers=exception_handlers,
            openapi_config=with_steps(openapi_config(), endpoints),
            request_max_body_size=self.settings.body_size_max_bytes,
            logging_config=None,
            **options,
        )

    def client(self, *steps: Step, database: Database | None = None, **options: Any) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app(*steps, database=database, **options), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://steps")

    async def post(self, handler: Callable[..., Any], **parts: Any) -> httpx.Response:
        """One POST to one step, with the body `json` if there is one."""
        body = parts.pop("json", None)
        async with self.client(step(handler, **parts)) as client:
            return await client.post("/run", json=body)

    async def query(self, sql: str, *parameters: Any) -> list[Any]:
        """Rows as another client of the database sees them; the first column of each."""
        connection = await asyncpg.connect(self.url)
        try:
            return [row[0] for row in await connection.fetch(sql, *parameters)]
        finally:
            await connection.close()

    def connections_out(self) -> int:
        """How many of the pool's connections are in use."""
        return self.database.pool.lent_count

    async def ids(self) -> list[str]:
        """The ids of the items that are stored, in order of their writing."""
        return await self.query("select id from streams.chat_message order by created_at")


async def together(client: httpx.AsyncClient, paths: Sequence[str]) -> list[int]:
    """The statuses of POSTs that are sent at once."""
    return [answer.status_code for answer in await asyncio.gather(*(client.post(path) for path in paths))]


def holding(count: int, use: Callable[[Any], Awaitable[Any]]) -> Callable[..., Any]:
    """A handler that uses its context and then waits until `count` of its kind have: each has a connection then."""
    barrier = asyncio.Barrier(count)

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await use(context)
        await barrier.wait()
        return {"status": 200, "body": "ok"}

    return handler


def step(handler: Callable[..., Any], **parts: Any) -> Step:
    """A step at POST /run, unless told otherwise."""
    if "body_schema" in parts:
        parts["body_schema"] = compile_declared(parts["body_schema"])
    if "response_schemas" in parts:
        parts["response_schemas"] = {status: schema_of(it) for status, it in parts["response_schemas"].items()}
    http = {key: parts.pop(key) for key in ("body_schema", "response_schemas") if key in parts}
    trigger = HttpTrigger(method=parts.pop("method", "POST"), path=parts.pop("path", "/run"), **http)
    return Step(**{"name": "Run", "triggers": (trigger,), "handler": handler, **parts})


@asynccontextmanager
async def open_steps(
    template: StepTemplate,
    *,
    pool_size_max: int = 5,
    pool_timeout_seconds: float = 60,
    pool_idle_seconds: float = 60,
    step_pool_share: float = 1,
    step_lock_timeout_seconds: float = 0,
) -> AsyncIterator[StepKit]:
    """A kit on a clone of the template, which is dropped afterwards."""
    url = await template.databases.create(template=template.name)
    database = Database(
        pool_size_max=pool_size_max,
        pool_timeout_seconds=pool_timeout_seconds,
        pool_idle_seconds=pool_idle_seconds,
        step_lock_timeout_seconds=step_lock_timeout_seconds,
        item_size_max_bytes=BODY_SIZE_MAX_BYTES,
    )
    try:
        await database.open(url)
        settings = Settings(database_url=url, body_size_max_bytes=BODY_SIZE_MAX_BYTES, step_pool_share=step_pool_share)
        yield StepKit(url, database, settings)
    finally:
        await database.close()
        await template.databases.drop(url)


@dataclass(frozen=True)
class StepTemplate:
    """A database with the stream and an author's own table, to be cloned."""

    databases: Databases
    name: str


@asynccontextmanager
async def make_step_template(databases: Databases) -> AsyncIterator[StepTemplate]:
    url = await databases.create()
    try:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "chat_stream.py").write_text(f"config = {CONFIG!r}")
            await asyncio.to_thread(migrate, url, Path(folder))
        connection = await asyncpg.connect(url)
        await connection.execute("create table orders (id text primary key)")
        await connection.close()
        yield StepTemplate(databases, make_url(url).database or "")
    finally:
        await databases.drop(url)
