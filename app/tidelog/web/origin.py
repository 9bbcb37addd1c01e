"""Whose fault a refused key or item is: the client's, if the step handed on what stands in its request.

Tidelog can't see through a handler, but it can compare: a value that is refused and that is in the request as it is
came from there, and the client can mend it. What the step made itself is the step's, and stays an internal error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from tidelog.errors import ItemInvalidError, KeyInvalidError
from tidelog.json_text import is_within
from tidelog.web.failures import Failure
from tidelog.web.request import Incoming

logger = logging.getLogger(__name__)

_PARTS = ("body", "pathParams", "queryParams", "headers", "rawBody")


def refusal_of(error: BaseException, incoming: Incoming | None, where: str) -> Failure | None:
    """The 400 for an error that is all of the request's making; None if it isn't."""
    refused = list(_leaves(error))
    culprits = [culprit for one in refused for culprit in _culprits(one)]
    if incoming is None or not culprits or not all(_culprits(one) for one in refused):
        return None
    req = incoming.req()
    if not all(_is_in(req, culprit) for culprit in culprits):
        return None
    first = refused[0]
    assert isinstance(first, KeyInvalidError | ItemInvalidError)  # noqa: S101 - others have no culprits
    logger.info("%s: its request has what can't be stored: %s: %s", where, first.code, first)
    violations = first.violations if isinstance(first, ItemInvalidError) else ()
    return Failure(HTTPStatus.BAD_REQUEST, first.code, str(first), violations)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The error, or the members of a group (asyncio.TaskGroup raises those)."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


def _culprits(error: BaseException) -> tuple[object, ...]:
    if isinstance(error, KeyInvalidError):
        return (error.key,)
    return error.culprits if isinstance(error, ItemInvalidError) else ()


def _is_in(req: Mapping[str, Any], value: object) -> bool:
    def is_it(one: Any) -> bool:
        return type(one) is type(value) and bool(one == value)

    return any(is_within(req[part], is_it) for part in _PARTS)
