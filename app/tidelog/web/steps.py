"""API steps as Litestar controllers: a request is read, its step runs and commits, and then it is answered."""

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, cast

from litestar import Controller, HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Empty, Receive, Scope, Send
from litestar.utils.scope.state import ScopeState

from tidelog.access.caller import Caller
from tidelog.errors import (
    CommitUnknownError,
    DeclarationError,
    ServerStoppingError,
    TidelogError,
    UnauthorizedError,
)
from tidelog.logs.request import CurrentRequest, current_request
from tidelog.model.schema import compile_schema
from tidelog.model.step import Endpoint
from tidelog.runtime.runner import Runtime, StepRunner
from tidelog.web.answer import TRANSACTION_HEADER, Answer, encode_answer
from tidelog.web.callers import Callers
from tidelog.web.failures import failure_of
from tidelog.web.invocation import HttpInvocation
from tidelog.web.origin import refusal_of
from tidelog.web.paths import RouteOf, methods_of, values_of
from tidelog.web.request import Incoming, read_body, read_headers, trace_id_of
from tidelog.web.stopping import is_stopping

METADATA_HEADER = "x-motia-metadata"  # by which a request asks for it, unless TIDELOG_MOTIA_METADATA decides


def step_controllers(
    endpoints: Iterable[Endpoint],
    runtime: Runtime,
    route_of: RouteOf,
    callers: Callers | None = None,
    position: Callable[[], int] = lambda: 0,
) -> list[type[Controller]]:
    """A controller for each endpoint, at the path that `route_of` gives; where some share one, one that inherits.

    `position` is how far the feed is, for the answers of steps that wrote nothing.

    (Litestar gives each controller an OPTIONS route, and refuses the second one at a path.)
    """
    at_path: dict[str, list[type[Controller]]] = {}
    endpoints, callers = list(endpoints), callers or Callers()
    triggers = [http for _, http in endpoints]
    for endpoint in endpoints:
        step, http = endpoint
        together = at_path.setdefault(route := route_of(http), [])
        if any(hasattr(other, http.method.lower()) for other in together):
            raise DeclarationError(f"step {step.name!r}: another step has {http.method} {http.path} already")
        together.append(
            _controller(StepEndpoint(endpoint, runtime, callers, position), route, methods_of(http, triggers))
        )
    return [
        together[0] if len(together) == 1 else type("SharedPath", tuple(together), {"path": path})
        for path, together in at_path.items()
    ]


def _controller(served: "StepEndpoint", route: str, methods: Sequence[HttpMethod]) -> type[Controller]:
    """The controller of one endpoint; its one route handler is named after the method."""
    step, http = served.endpoint

    async def run(self: Controller) -> None:
        raise RuntimeError("the step answers before Litestar comes to this")

    # As a middleware that answers: what Litestar would do from here on (a Request, dependencies, a Response) is a tenth
    # of what a step costs beside the database, and none of it is used.
    # Not in Litestar's part of the OpenAPI document: steps declare JSON Schema, see openapi.py.
    handler = HTTPRouteHandler(
        http_method=methods,
        status_code=200,
        include_in_schema=False,
        guards=step.guards,
        middleware=[lambda app: served],
    )(run)
    name = "".join(part[:1].upper() + part[1:] for part in re.split(r"\W+|_", step.name)) + "Step"
    body = {"path": route, http.method.lower(): handler, "__doc__": step.description or None}
    return type(name, (Controller,), body)


class StepEndpoint:
    """One step at one path, as an ASGI application."""

    def __init__(self, endpoint: Endpoint, runtime: Runtime, callers: Callers, position: Callable[[], int]) -> None:
        self.endpoint = endpoint
        self._callers = callers
        self._position = position
        self._runner = StepRunner(endpoint.step, runtime)
        self._body_size_max_bytes = runtime.settings.body_size_max_bytes
        self._has_metadata = runtime.settings.motia_metadata
        self._where = f"step {endpoint.step.name}"
        self._parameters = endpoint.http.parameters
        self._response_schemas = {
            status: compile_schema(document) for status, document in endpoint.http.response_schemas.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request. Whatever goes wrong is an answer, too; what a guard raises is for Litestar to answer."""
        route: HTTPRouteHandler = cast("dict[str, Any]", scope)["route_handler"]
        headers = read_headers(scope["headers"])
        trace_id = trace_id_of(headers)
        try:
            path_params = dict(zip(self._parameters, values_of(scope), strict=True))
            caller = await self._caller_of(scope)
        except TidelogError as error:
            await _send(self._failed(error, None, trace_id), trace_id, send)
            return
        if route.resolve_guards() or route.resolve_before_request():
            scope["path_params"] = path_params
            answered = await _ask_application(route, scope, receive, send)
            if answered is not None:
                await answered(scope, receive, send)
                return
        receive = _with_body_read(scope, receive)
        current_request.set(CurrentRequest(self.endpoint.step.name, trace_id))
        incoming: Incoming | None = None
        try:
            incoming = Incoming(
                body=await read_body(receive, headers, self._body_size_max_bytes),
                headers=headers,
                path_params=path_params,
                query=scope["query_string"],
            )
            invocation = self._invocation(incoming, trace_id, receive, send, caller.auth)
            answer = await self._runner.run(invocation)
            if answer is not None and invocation.was_committed:
                answer.headers.append((TRANSACTION_HEADER, self._transaction(invocation).encode()))
        except Exception as error:
            answer = self._failed(error, incoming, trace_id)
        except asyncio.CancelledError as error:
            if not is_stopping(scope):
                raise
            doubt = error.__cause__
            stopping = doubt if isinstance(doubt, CommitUnknownError) else ServerStoppingError()
            answer = self._failed(stopping, incoming, trace_id)
        if answer is not None:  # else it was sent already
            await _send(answer, trace_id, send)

    async def _caller_of(self, scope: Scope) -> Caller:
        """Who asks, which guards then find in `connection.user` and `.auth`. Raises TidelogError: it is refused."""
        caller = await self._callers.of(scope)
        if self.endpoint.step.needs_caller and not caller.is_known:
            raise UnauthorizedError("this takes somebody who is known: send a token")
        found = cast("dict[str, Any]", scope)
        found.setdefault("user", caller.auth)
        found.setdefault("auth", caller.auth)
        return caller

    def _invocation(self, incoming: Incoming, trace_id: str, receive: Receive, send: Send, auth: Any) -> HttpInvocation:
        refuse = partial(self._refuse, trace_id, send)
        http = self.endpoint.http
        has_metadata = self._has_metadata
        if has_metadata is None:
            has_metadata = incoming.headers.get(METADATA_HEADER, "").lower() in ("true", "1")
        return HttpInvocation(
            incoming,
            trace_id,
            self._where,
            receive,
            refuse,
            http.body_schema,
            self._response_schemas,
            auth,
            with_metadata=has_metadata,
        )

    def _transaction(self, invocation: HttpInvocation) -> str:
        """What a client can wait for; of a step that wrote nothing, what was there when it ended."""
        return f"position:{self._position()}" if invocation.transaction is None else str(invocation.transaction)

    async def _refuse(self, trace_id: str, send: Send, error: Exception) -> None:
        await _send(self._failed(error, None, trace_id), trace_id, send)

    def _failed(self, error: Exception, incoming: Incoming | None, trace_id: str) -> Answer:
        where = f"{self._where}, trace {trace_id}"
        failure = refusal_of(error, incoming, where) or failure_of(error, where)
        return encode_answer({"status": failure.status, "body": failure.body(), "headers": failure.headers})


async def _ask_application(route: HTTPRouteHandler, scope: Scope, receive: Receive, send: Send) -> ASGIApp | None:
    """Its guards, which raise if they don't let the request pass; then its `before_request`, which may answer it."""
    request = route.resolve_request_class()(scope, receive, send)
    if route.resolve_guards():
        await route.authorize_connection(request)
    before_request = route.resolve_before_request()
    said = await before_request(request) if before_request is not None else None
    if not said:  # as Litestar asks
        return None
    return await route.to_response(scope["litestar_app"], said, request)


def _with_body_read(scope: Scope, receive: Receive) -> Receive:
    """What gives the body again that a guard or a middleware has read already: Litestar keeps it for the handler."""
    body = ScopeState.from_scope(scope).body
    if body is Empty:
        return receive
    kept: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Any:
        return kept.pop() if kept else await receive()

    return receive_again


async def _send(answer: Answer, trace_id: str, send: Send) -> None:
    answer.headers.append((b"x-trace-id", trace_id.encode()))
    await answer.send(send)
