"""API steps as Litestar controllers: a request, a handler in a transaction, a commit, and then the answer."""

import asyncio
import contextvars
import inspect
import logging
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any, NoReturn, cast

from litestar import Controller, HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.types import Receive, Scope, Send
from pydantic_core import from_json

from app.errors import (
    AnswerInvalidError,
    BodyInvalidError,
    ClientGoneError,
    CommitUnknownError,
    DeclarationError,
    StepTimedOutError,
)
from app.json_text import parse
from app.logs.request import CurrentRequest, current_request
from app.model.schema import Schema, compile_schema
from app.model.step import Step
from app.model.stream import Stream
from app.settings import Settings, idle_timeout_seconds
from app.store.autocommit import StepAutocommit
from app.store.engine import Database
from app.store.failure import is_aftermath, is_away, is_busy, is_conflict, may_run_again
from app.store.items import Items
from app.store.share import Share
from app.store.transaction import BEGIN, StepTransaction, begin_with
from app.web.answer import WITHOUT_BODY, Answer, encode_answer
from app.web.context import StepContext
from app.web.failures import failure_of
from app.web.origin import refusal_of
from app.web.paths import VALUES, methods_of, route_of
from app.web.request import Incoming, read_body, read_headers, trace_id_of
from app.web.threads import HandlerThreads
from app.web.watch import HandlerWatch

BACKOFF_SECONDS = 0.01  # before the first retry, at most; twice that before the next. A deadlock's winner needs ms

logger = logging.getLogger(__name__)

_PARAMETER = re.compile(r":([^/]+)")


def step_controllers(
    steps: Iterable[Step],
    streams: Mapping[str, Stream],
    database: Database,
    settings: Settings,
    threads: HandlerThreads,
) -> list[type[Controller]]:
    """A controller for each step; where steps share a path, one that inherits from theirs.

    (Litestar gives each controller an OPTIONS route, and refuses the second one at a path.)
    """
    items = {name: Items(stream, size_max_bytes=settings.body_size_max_bytes) for name, stream in streams.items()}
    at_path: dict[str, list[type[Controller]]] = {}
    steps = list(steps)
    for step in steps:
        together = at_path.setdefault(route_of(step), [])
        if any(hasattr(other, step.method.lower()) for other in together):
            raise DeclarationError(f"step {step.name!r}: another step has {step.method} {step.path} already")
        runner = StepRunner(step, items, database, settings, threads)
        together.append(step_controller(runner, methods_of(step, steps)))
    return [
        together[0] if len(together) == 1 else type("SharedPath", tuple(together), {"path": path})
        for path, together in at_path.items()
    ]


def step_controller(runner: "StepRunner", methods: Sequence[HttpMethod]) -> type[Controller]:
    """The controller of one step; its one route handler is named after the method."""
    step = runner.step

    async def run(self: Controller) -> None:
        raise RuntimeError("the runner answers before Litestar comes to this")

    # As a middleware that answers: what Litestar would do from here on (a Request, dependencies, a Response) is a tenth
    # of what a step costs beside the database, and none of it is used.
    # Not in Litestar's part of the OpenAPI document: steps declare JSON Schema, see openapi.py.
    handler = HTTPRouteHandler(
        http_method=methods, status_code=200, include_in_schema=False, middleware=[lambda app: runner]
    )(run)
    name = "".join(part[:1].upper() + part[1:] for part in re.split(r"\W+|_", step.name)) + "Step"
    body = {"path": route_of(step), step.method.lower(): handler, "__doc__": step.description or None}
    return type(name, (Controller,), body)


class StepRunner:
    """Runs one step for each request that is for it."""

    def __init__(
        self,
        step: Step,
        items: Mapping[str, Items],
        database: Database,
        settings: Settings,
        threads: HandlerThreads,
    ) -> None:
        self.step = step
        self._items = items
        self._share = Share(database.pool, settings.step_pool_share)
        self._body_size_max_bytes = settings.body_size_max_bytes
        self._threads = threads
        self._where = f"step {step.name}"
        self._parameters = _PARAMETER.findall(step.path)
        self._response_schemas = {
            status: compile_schema(document) for status, document in step.response_schemas.items()
        }
        # Without a transaction the handler's work is done already: again would be twice.
        self._retries = step.retries if step.transaction else 0
        self._limit_seconds = settings.step_timeout_seconds if step.timeout_seconds is None else step.timeout_seconds
        own_limit = step.timeout_seconds is not None
        self._begin = begin_with(idle_timeout_seconds=idle_timeout_seconds(self._limit_seconds)) if own_limit else BEGIN
        self._is_plain = not _is_async(step.handler)
        self._takes_context = _takes_context(step.handler)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, as an ASGI application."""
        answer = await self._answer(scope, receive, send)
        if answer is not None:
            await answer.send(send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> Answer | None:
        """Whatever goes wrong is an answer, too. None if it was sent already."""
        headers = read_headers(scope["headers"])
        trace_id = trace_id_of(headers)
        current_request.set(CurrentRequest(self.step.name, trace_id))
        incoming: Incoming | None = None
        try:
            values: list[str] = cast("dict[str, Any]", scope)[VALUES]
            incoming = Incoming(
                body=await read_body(receive, headers, self._body_size_max_bytes),
                headers=headers,
                path_params=dict(zip(self._parameters, values, strict=True)),
                query=scope["query_string"],
            )
            answer = await self._try(incoming, trace_id, receive, send)
        except Exception as error:
            answer = self._failed(error, incoming, trace_id)
        if answer is not None:
            answer.headers.append((b"x-trace-id", trace_id.encode()))
        return answer

    def _failed(self, error: Exception, incoming: Incoming | None, trace_id: str) -> Answer:
        where = f"{self._where}, trace {trace_id}"
        failure = refusal_of(error, incoming, where) or failure_of(error, where)
        return encode_answer({"status": failure.status, "body": failure.body(), "headers": failure.headers})

    async def _try(self, incoming: Incoming, trace_id: str, receive: Receive, send: Send) -> Answer | None:
        """Run the handler; again, from the start, if its transaction lost against another and the step says so."""
        for attempt in range(self._retries):
            try:
                return await self._run_once(incoming, trace_id, receive, send)
            except Exception as error:
                if not may_run_again(error):
                    raise
                logger.info("%s, trace %s: attempt %d lost: %s", self._where, trace_id, attempt + 1, error)
            # Jitter: two steps that met in a deadlock shall not meet again.
            await asyncio.sleep(random.uniform(0, BACKOFF_SECONDS * 2**attempt))  # noqa: S311 - no secret
        return await self._run_once(incoming, trace_id, receive, send)

    async def _run_once(self, incoming: Incoming, trace_id: str, receive: Receive, send: Send) -> Answer | None:
        req = incoming.req()
        req["body"] = _checked_body(self.step.body_schema, req["body"])
        work = StepTransaction(self._share, self._begin) if self.step.transaction else StepAutocommit(self._share)
        loop = asyncio.get_running_loop()
        context = StepContext(self.step, trace_id, self._items, work, loop, is_plain=self._is_plain)
        give_up = partial(self._give_up, context, work, trace_id, send)
        watch = HandlerWatch(receive, self._limit_seconds, give_up)
        try:
            returned = await self._call(req, context, watch)
            await context.calls.finish()
            answer = encode_answer(returned)
            self._check_answer(answer, trace_id)
            watch.stop()
            watch.check()
            # From here on nothing cancels this task but the end of the process.
            await work.commit()
        except BaseException as error:
            watch.stop()
            if watch.is_given_up:
                await watch.until_given_up()
                return None
            unseen = context.calls.discard()
            await work.rollback()
            _raise_for(error, watch, unseen, work)
        return answer

    async def _give_up(
        self, context: StepContext, work: StepTransaction | StepAutocommit, trace_id: str, send: Send
    ) -> None:
        """Answer for a handler that goes on though it was cancelled, and take from it what it has of the database."""
        logger.error("%s, trace %s: its handler was cancelled, and goes on; it is given up", self._where, trace_id)
        context.calls.discard()
        await work.rollback()
        answer = self._failed(StepTimedOutError(self._limit_seconds), None, trace_id)
        answer.headers.append((b"x-trace-id", trace_id.encode()))
        await answer.send(send)

    async def _call(self, req: dict[str, Any], context: StepContext, watch: HandlerWatch) -> Any:
        arguments = (req, context) if self._takes_context else (req,)
        if not self._is_plain:
            watch.handler = self.step.handler(*arguments)
            return await watch.handler
        in_context = contextvars.copy_context().run
        returned = await self._threads.run(self.step.name, partial(in_context, self._call_plain, arguments))
        if inspect.iscoroutine(returned):
            returned.close()
            raise AnswerInvalidError("a plain handler returned a coroutine: write `async def handler(req, context)`")
        return returned

    def _call_plain(self, arguments: tuple[Any, ...]) -> Any:
        try:
            return self.step.handler(*arguments)
        except StopIteration as error:  # Python 3.11 can't hand it on, and the request would wait forever
            raise RuntimeError("the handler let a StopIteration out: next() without a default?") from error

    def _check_answer(self, answer: Answer, trace_id: str) -> None:
        """Warn if the body doesn't fit the declared responseSchema. It is sent all the same, as Motia does."""
        schema = self._response_schemas.get(answer.status)
        if schema is None or answer.status in WITHOUT_BODY:
            return
        try:
            violations = schema.violations(_read_json(answer.body))
            if not violations:
                return
            cause = f"{violations[0].path or 'the body'}: {violations[0].message}"
        except ValueError:
            cause = "it is not JSON"
        logger.warning(
            "%s, trace %s: the body of status %d does not fit its responseSchema: %s",
            self._where,
            trace_id,
            answer.status,
            cause,
        )


def _raise_for(
    error: BaseException, watch: HandlerWatch, unseen: BaseException | None, work: StepTransaction | StepAutocommit
) -> NoReturn:
    """Raise what `error`, which ended a handler, means; `unseen` is that of an earlier call that nobody awaited."""
    broken_off = watch.error()
    if isinstance(broken_off, ClientGoneError):
        raise broken_off from None
    if broken_off is not None:
        raise broken_off  # the log shows where it stood
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and not (task and task.cancelling()):
        raise RuntimeError("the handler was cancelled by its own doing") from error
    if isinstance(error, SystemExit):
        raise RuntimeError("the handler called sys.exit(); that would stop the server") from error
    if unseen is not None and is_aftermath(error):
        raise unseen
    is_told_to_repeat = isinstance(error, Exception) and (is_conflict(error) or is_busy(error) or is_away(error))
    if is_told_to_repeat and work.may_have_stored(error):
        raise CommitUnknownError(f"without a transaction, what the step did before stays stored: {error}") from error
    if unseen is not None:
        error.add_note(f"Before that, a call on a stream that was not awaited failed: {unseen!r}")
    raise error


def step_in(steps: Iterable[Step]) -> Callable[[FrameType], str | None]:
    """Names the step that a frame belongs to: the handler's call, or, in a task of its own, any code of its file."""
    by_file = {str(step.file): step.name for step in steps if step.file is not None}

    def name(frame: FrameType) -> str | None:
        if frame.f_code is StepRunner._call.__code__:
            runner: StepRunner = frame.f_locals["self"]
            return runner.step.name
        return by_file.get(frame.f_code.co_filename)

    return name


def _checked_body(schema: Schema | None, body: Any) -> Any:
    if schema is None:
        return body
    body, violations = schema.read(body)
    if violations:
        first = violations[0]
        raise BodyInvalidError(
            f"the body does not fit the step's bodySchema: {first.path or 'the body'}: {first.message}", violations
        )
    return body


def _read_json(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError:  # it is deeper, or has larger numbers, than pydantic reads; or it is no JSON
        return parse(body.decode())


def _is_async(handler: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


def _takes_context(handler: Callable[..., Any]) -> bool:
    positional = 0
    for parameter in inspect.signature(handler).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            return True
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            positional += 1
    return positional >= 2
