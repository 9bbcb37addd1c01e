"""A request as a step's invocation: from the request to `req`, from what the handler returns to an encoded answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from litestar.types import Receive
from pydantic_core import from_json

from tidelog.errors import BodyInvalidError, StepTimedOutError
from tidelog.json_text import parse
from tidelog.model.schema import Schema
from tidelog.store.asking import Lend
from tidelog.web.answer import WITHOUT_BODY, Answer, encode_answer
from tidelog.web.request import Incoming

logger = logging.getLogger(__name__)


class HttpInvocation:
    """One request, whose body is here. See Invocation, which it is."""

    __slots__ = (
        "_body_schema",
        "_incoming",
        "_receive",
        "_refuse",
        "_response_schemas",
        "_where",
        "_with_metadata",
        "auth",
        "trace_id",
        "transaction",
        "was_committed",
    )
    ending: Callable[[Lend], Awaitable[None]] | None = None  # what a request's step does is all the author's

    def __init__(
        self,
        incoming: Incoming,
        trace_id: str,
        where: str,
        receive: Receive,
        refuse: Callable[[Exception], Awaitable[None]],
        body_schema: Schema | None,
        response_schemas: Mapping[int, Schema],
        auth: Any,
        *,
        with_metadata: bool = False,
    ) -> None:
        """`refuse` answers the request for an error; `auth` is who sent it. `with_metadata`: see encode_answer."""
        self._with_metadata = with_metadata
        self.auth = auth
        self.trace_id = trace_id
        self.transaction: int | None = None
        self.was_committed = False  # and it is known in which transaction
        self._incoming = incoming
        self._where = where
        self._receive = receive
        self._refuse = refuse
        self._body_schema = body_schema
        self._response_schemas = response_schemas

    def given(self) -> dict[str, Any]:
        """`req`. Raises BodyInvalidError and QueryInvalidError."""
        req = self._incoming.req()
        req["auth"] = self.auth
        if self._body_schema is not None:
            req["body"] = _checked_body(self._body_schema, req["body"], self._incoming)
        return req

    def accept(self, returned: Any) -> Answer:
        """The response, encoded. Raises AnswerInvalidError."""
        answer = encode_answer(returned, with_metadata=self._with_metadata)
        self._check_answer(answer)
        return answer

    def committed(self, transaction: int | None) -> None:
        self.transaction, self.was_committed = transaction, True

    async def until_gone(self) -> None:
        message = await self._receive()
        if message["type"] != "http.disconnect":
            await asyncio.get_running_loop().create_future()

    def has_gone(self) -> bool:
        """Whether `receive`, as the whole body is there, has an answer at once: that the client has gone."""
        receiving = self._receive().__await__()
        try:
            next(receiving)
        except StopIteration as received:
            return bool(received.value["type"] == "http.disconnect")
        # Servers that are not written in Python have futures of their own there (granian), to be cancelled as such.
        leave = getattr(receiving, "close", None) or getattr(receiving, "cancel", None)
        if leave is not None:
            leave()
        return False

    async def give_up(self, error: StepTimedOutError) -> None:
        await self._refuse(error)

    def _check_answer(self, answer: Answer) -> None:
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
            self.trace_id,
            answer.status,
            cause,
        )


def _checked_body(schema: Schema, body: Any, incoming: Incoming) -> Any:
    made, violations = schema.read(body)
    if violations:
        first = violations[0]
        raise BodyInvalidError(
            f"the body does not fit the step's bodySchema: {first.path or 'the body'}: {first.message}"
            + incoming.hint(body),
            violations,
        )
    return made


def _read_json(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError:  # it is deeper, or has larger numbers, than pydantic reads; or it is no JSON
        return parse(body.decode())
