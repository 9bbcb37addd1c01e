"""The routes of reads: who asks, may they, what do they want; then the database, and an answer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from litestar import Request, Response
from litestar.handlers import HTTPRouteHandler
from pydantic_core import to_json

from tidelog.access.caller import Caller
from tidelog.access.decisions import Mode, Wish
from tidelog.errors import (
    ItemNotKeptError,
    ItemUnknownError,
    NoSuchStreamError,
    PositionForeignError,
    PositionTooOldError,
    ReadsBusyError,
    StreamUnreadableError,
    TransactionAbortedError,
    WaitTimedOutError,
)
from tidelog.model.stream import Stream
from tidelog.store.epoch import NotBegunError
from tidelog.store.reads import Reads
from tidelog.web.admission import Admission
from tidelog.web.failures import Failure, failure_of
from tidelog.web.reads import answers
from tidelog.web.reads.parameters import Awaited, Parameters
from tidelog.web.reads.waiting import Waiting
from tidelog.web.unknown_streams import UnknownStreams

STREAMS = frozenset({"wait_for"})
GROUPS = frozenset({"prefix", "after", "limit", "at", "wait_for"})
ITEMS = frozenset({"group", "id", "after", "limit", "at", "wait_for"})
HISTORY = frozenset({"group", "id", "from", "to", "at", "after", "limit", "wait_for"})

RETRY_BUSY_SECONDS = 1
# What is somebody's own must not stay in a proxy, and what was just written must be seen.
HEADERS = {"cache-control": "private, no-cache", "content-type": "application/json", "vary": "authorization"}
# Errors of the library, whose status over HTTP is a read's matter.
STATUSES = {
    PositionTooOldError: 410,
    PositionForeignError: 409,
    TransactionAbortedError: 409,
    ReadsBusyError: 503,
    WaitTimedOutError: 504,
}

logger = logging.getLogger(__name__)

AnyRequest = Request[Any, Any, Any]


class ReadRoutes:
    """All that reads of one process have."""

    def __init__(self, streams: Mapping[str, Stream], reads: Reads, admission: Admission, waiting: Waiting) -> None:
        self._streams = streams
        self._reads = reads
        self._admission = admission
        self._waiting = waiting
        self._unknown_streams = UnknownStreams(streams)

    def handlers(self, below: str = "/") -> list[HTTPRouteHandler]:
        """Litestar's route handlers, `below` a path."""
        below = below.rstrip("/")
        routes = {
            f"{below}/streams": self.streams,
            f"{below}/streams/{{stream:str}}/groups": self.groups,
            f"{below}/streams/{{stream:str}}/items": self.items,
            f"{below}/streams/{{stream:str}}/history": self.history,
        }
        return [_handler(path, read) for path, read in routes.items()]

    async def streams(self, request: AnyRequest) -> Response[bytes]:
        """Those that the caller may list."""
        parameters = Parameters(request.scope["query_string"], STREAMS)
        awaited = parameters.wait_for()
        caller, mode = await self._caller(request)
        allowed = [
            stream
            for name, stream in sorted(self._streams.items())
            if await self._admission.access.may(caller, Wish(name, None, operation="list"), mode)
        ]
        await self._wait(awaited, caller, request)
        place = await self._reads.place()
        told = [{"name": stream.name, "schema": stream.schema.document} for stream in allowed]
        return Response(answers.streams_body(told, place), headers=HEADERS)

    async def groups(self, request: AnyRequest) -> Response[bytes]:
        parameters = Parameters(request.scope["query_string"], GROUPS)
        prefix, after = parameters.text("prefix") or "", parameters.key("after")
        limit, at = parameters.limit(), parameters.at()
        stream = await self._admit(request, parameters, None, None, "list")
        page = await self._reads.groups(stream, prefix=prefix, after=after, limit=limit, at=at)
        return Response(answers.groups_body(page), headers=HEADERS)

    async def items(self, request: AnyRequest) -> Response[bytes]:
        parameters = Parameters(request.scope["query_string"], ITEMS)
        group_id, id, after = parameters.needed_key("group"), parameters.key("id"), parameters.key("after")
        limit, at = parameters.limit(), parameters.at()
        # What an item was is history: who may see the one may not have to see the other.
        stream = await self._admit(request, parameters, group_id, id, "read" if at is None else "history")
        page = await self._reads.items(stream, group_id, id=id, after=after, limit=limit, at=at)
        if id is None:
            return Response(answers.items_body(page), headers=HEADERS)
        if not page.rows:
            raise ItemUnknownError(f"there is no such item in this group at position {page.place.position}")
        [row] = page.rows
        if row["is_erased"]:
            raise ItemNotKeptError("the item was there at this position; what it was has been erased")
        if row["data"] is None:
            raise ItemNotKeptError("the item was there at this position; what it was is not kept any more")
        headers = HEADERS | {"etag": answers.etag_of(row, page.place)}
        if answers.is_among(headers["etag"], request.headers.get("if-none-match", "")):
            del headers["content-type"]
            return Response(b"", headers=headers, status_code=304)
        return Response(answers.item_body(row, page.place), headers=headers)

    async def history(self, request: AnyRequest) -> Response[bytes]:
        parameters = Parameters(request.scope["query_string"], HISTORY)
        group_id, id = parameters.needed_key("group"), parameters.key("id")
        begin, end, after, limit = parameters.at("from"), parameters.at("to"), parameters.cursor(), parameters.limit()
        end = parameters.at() if end is None else end
        stream = await self._admit(request, parameters, group_id, id, "history")
        page = await self._reads.history(stream, group_id, id=id, begin=begin, end=end, after=after, limit=limit)
        return Response(answers.history_body(page), headers=HEADERS)

    async def _caller(self, request: AnyRequest) -> tuple[Caller, Mode]:
        return await self._admission.callers.of(request.scope), self._admission.mode_of(request.scope)

    async def _admit(
        self, request: AnyRequest, parameters: Parameters, group_id: str | None, id: str | None, operation: Any
    ) -> str:
        """The stream's name, when what is waited for has passed. Raises NoSuchStreamError, alike for all that isn't."""
        stream: str = request.path_params["stream"]
        awaited = parameters.wait_for()
        caller, mode = await self._caller(request)
        if not await self._admission.access.may(caller, Wish(stream, group_id, id, operation), mode):
            self._unknown_streams.note(stream)
            raise NoSuchStreamError
        await self._wait(awaited, caller, request)
        return stream

    async def _wait(self, awaited: Awaited | None, caller: Caller, request: AnyRequest) -> None:
        if awaited is not None:
            client = self._admission.callers.client_of(request.scope, caller)
            await self._waiting.until_passed(awaited, client or request)


def _handler(path: str, read: Callable[[AnyRequest], Awaitable[Response[bytes]]]) -> HTTPRouteHandler:
    async def answer(request: AnyRequest) -> Response[bytes]:
        # Not by exception handlers: in somebody's own application those are his.
        try:
            return await read(request)
        except Exception as error:
            return _failed(error, f"GET {path}")

    # Its schema is written by hand (describe.py): Litestar would check parameters, and answer, in its own way.
    return HTTPRouteHandler(path, http_method="GET", include_in_schema=False)(answer)


def _failed(error: Exception, where: str) -> Response[bytes]:
    failure = _failure(error, where)
    headers = {"cache-control": "no-store", "content-type": "application/json", **failure.headers}
    return Response(to_json(failure.body()), status_code=failure.status, headers=headers)


def _failure(error: Exception, where: str) -> Failure:
    if isinstance(error, NotBegunError):
        error = ReadsBusyError()
    if isinstance(error, StreamUnreadableError):  # what of it is gone is for the log
        logger.warning("%s: %s", where, error)
        return Failure(503, error.code, "the stream can't be read now: its table is gone, or was altered")
    status = STATUSES.get(type(error))
    if status is None:
        return failure_of(error, where)
    code: str = getattr(error, "code", "")
    headers = {"retry-after": str(RETRY_BUSY_SECONDS)} if status == 503 else {}
    return Failure(status, code, str(error), headers=headers)
