"""Steps among an application's own guards and middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from tests.integration.step_fixtures import StepKit, StepTemplate, open_steps, step

SECRET = "let me in"


@pytest.fixture
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template) as kit:
        yield kit


async def handler(req: dict[str, Any], context: Any) -> Any:
    await context.streams.chatMessage.set("g", "i", {"text": "stored"})
    return {"status": 200, "body": "done"}


def plain_guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    if connection.headers.get("x-secret") != SECRET:
        raise NotAuthorizedException("not without the secret")


async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    plain_guard(connection, handler)


class UserMiddleware(ASGIMiddleware):
    """Says who asks, as authentication does."""

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        scope["user"] = "ada"
        await next_app(scope, receive, send)


async def test_a_step_runs_only_if_the_applications_guards_let_it(kit: StepKit) -> None:
    """Async or plain, each; the body is not even read."""
    for each in (guard, plain_guard):
        async with kit.client(step(handler), guards=[each]) as client:
            refused = await client.post("/run", content=b"{")
            assert refused.status_code == 401
            assert refused.json() == {"error": {"code": "unauthorized", "message": "not without the secret"}}
            assert await kit.ids() == []
    async with kit.client(step(handler), guards=[guard]) as client:
        assert (await client.post("/run", headers={"x-secret": SECRET})).text == "done"
        assert await kit.ids() == ["i"]


async def test_a_guard_sees_what_a_middleware_found_out(kit: StepKit) -> None:
    """Whoever authenticates does so in a middleware: it runs before."""
    seen: list[str] = []

    def note(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        seen.append(connection.user)

    async with kit.client(step(handler), guards=[note], middleware=[UserMiddleware()]) as client:
        assert (await client.post("/run")).status_code == 200
    assert seen == ["ada"]


async def test_a_guard_that_fails_lets_nobody_in(kit: StepKit) -> None:
    """An error of its own is as good as no."""

    def broken(_: ASGIConnection[Any, Any, Any, Any], __: BaseRouteHandler) -> None:
        raise RuntimeError("no")

    async with kit.client(step(handler), guards=[broken]) as client:
        assert (await client.post("/run")).status_code == 500
    assert await kit.ids() == []
