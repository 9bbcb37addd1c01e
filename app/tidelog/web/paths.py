"""Which step a request is for: looked up in its path as it was sent, before Litestar's router sees it.

Litestar splits the path after the server has decoded it: `/repos/org%2Fapp` would be the step of `/repos/:org/:app`,
bytes that are no UTF-8 would all be one character, and an empty parameter would make a path of one part less. So steps
are found here: split first, then decode; fixed parts go before parameters, these before what takes the rest of a path,
and steps of the request's method before those of others. Litestar gets a route that no request could name, and does
the rest: 405, OPTIONS, CORS, errors.

What a path means: every part is one value, decoded once, whatever it is (`..`, `a;b`, `a+b`, `%3A`, `%2F`): nothing is
resolved or split further. The rest of a path is one value, with the slashes between its parts. A slash at the end makes
no difference; an empty part matches nothing (404), but in such a rest. A part that is no UTF-8, or has a NUL character,
is refused (400), as no key that is stored could have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from litestar import HttpMethod, Litestar, Request
from litestar.enums import ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.types import HTTPScope, LifeSpanReceive, LifeSpanScope, LifeSpanSend, Message, Receive, Scope, Send

from tidelog.errors import PathInvalidError
from tidelog.model.reserved import SERVER_PATHS
from tidelog.model.trigger import HttpTrigger, shape_of

VALUES = "tidelog.path_values"  # in the scope: the values of a step's parameters, in their order

RouteOf = Callable[[HttpTrigger], str]

_VALUE = "tidelog_value_"  # and the number of its part: steps that name one parameter differently share a path
_STEPS = "/\0"  # where Litestar has the steps' routes: a path with NUL is refused before it gets there
_REFUSED = "/\0refused"
_REFUSAL = "tidelog.refusal"
_NO_UTF_8 = "the path has bytes that are no UTF-8"
_NUL = "the path has a NUL character, which Postgres can't hold"


def hidden_route(trigger: HttpTrigger) -> str:
    """Where Litestar has the steps of this shape, if StepsApp finds them."""
    return "/".join((_STEPS, *trigger.shape))


def routes_below(path: str) -> RouteOf:
    """Where Litestar has steps, if it finds them itself: in somebody's application, where they are like its routes."""

    def route_of(trigger: HttpTrigger) -> str:
        kinds = {":": "str", "*": "path"}
        parts = [
            f"{{{_VALUE}{number}:{kinds[part]}}}" if part in kinds else part
            for number, part in enumerate(trigger.shape)
        ]
        return "/".join((path.rstrip("/"), *parts)) or "/"

    return route_of


def values_of(scope: Scope) -> list[str]:
    """The values of a step's parameters, in their order. Raises PathInvalidError."""
    placed = cast("dict[str, Any]", scope).get(VALUES)
    if placed is not None:
        return cast("list[str]", placed)
    _check(scope)
    given = scope["path_params"].items()  # and of the path that the application has the steps below
    found = {int(name.removeprefix(_VALUE)): value for name, value in given if name.startswith(_VALUE)}
    # The rest of a path begins with a slash there; other values have none, as Litestar splits them after decoding.
    return [found[number].removeprefix("/") for number in sorted(found)]


def _check(scope: Scope) -> None:
    """Refuse what Litestar's router lets pass. It has the path decoded, with other bytes than UTF-8 replaced."""
    raw = scope.get("raw_path")
    try:
        path = unquote_to_bytes(raw).decode() if raw else scope["path"]
    except UnicodeDecodeError:
        raise PathInvalidError(_NO_UTF_8) from None
    if "\0" in path:
        raise PathInvalidError(_NUL)


def methods_of(trigger: HttpTrigger, others: Iterable[HttpTrigger]) -> list[HttpMethod]:
    """What a step answers: GET answers HEAD, too, unless another step at its path is declared for that."""
    methods = [HttpMethod(trigger.method)]
    if trigger.method == "GET" and not any(other.method == "HEAD" and other.shape == trigger.shape for other in others):
        methods.append(HttpMethod.HEAD)
    return methods


class StepsApp(Litestar):
    """A Litestar application that finds its steps here."""

    def __init__(self, triggers: Iterable[HttpTrigger], **options: Any) -> None:
        refuse = HTTPRouteHandler(_REFUSED, http_method=list(HttpMethod), status_code=400, include_in_schema=False)
        options["route_handlers"] = [*options["route_handlers"], refuse(_refuse)]
        super().__init__(**options)
        self._paths = StepPaths(triggers)

    async def __call__(
        self, scope: Scope | LifeSpanScope, receive: Receive | LifeSpanReceive, send: Send | LifeSpanSend
    ) -> None:
        if scope["type"] == ScopeType.HTTP:
            request = cast("HTTPScope", scope)
            if request["method"] == "HEAD":
                send = _without_body(cast("Send", send))
            scope = self._paths.place(request)
        await super().__call__(scope, receive, send)


class StepPaths:
    """The steps' paths, as a tree of their parts."""

    def __init__(self, triggers: Iterable[HttpTrigger]) -> None:
        self._root = _Part()
        for path in SERVER_PATHS:
            self._root.at(shape_of(path)).is_the_servers = True
        for trigger in triggers:
            part = self._root.at(trigger.shape)
            part.route = hidden_route(trigger)
            part.methods |= {trigger.method, "OPTIONS"} | ({"HEAD"} if trigger.method == "GET" else set())

    def place(self, scope: HTTPScope) -> HTTPScope:
        """The scope of a request; if a step is at its path, a copy that says so to Litestar and to the step.

        A copy, as the server logs the path from its own.
        """
        parts = _parts(scope)
        if isinstance(parts, PathInvalidError):
            return cast("HTTPScope", {**scope, "path": _REFUSED, "root_path": "", _REFUSAL: parts})
        values: list[str] = []
        found = self._root.find(parts, 1, scope["method"], values) or self._root.find(parts, 1, None, values)
        if found is None:
            return scope
        if found.is_the_servers:
            return cast("HTTPScope", {**scope, "method": "GET"}) if scope["method"] == "HEAD" else scope
        return cast("HTTPScope", {**scope, "path": found.route, "root_path": "", VALUES: values})


class _Part:
    """One part of a path, and what may follow it."""

    __slots__ = ("is_the_servers", "methods", "next", "parameter", "rest", "route")

    def __init__(self) -> None:
        self.next: dict[str, _Part] = {}
        self.parameter: _Part | None = None
        self.rest: _Part | None = None  # of a path that takes all that follows
        self.route = ""  # of the steps whose paths end here
        self.methods: set[str] = set()
        self.is_the_servers = False

    def at(self, shape: Iterable[str]) -> _Part:
        """The part at the end of these, which are made if they are new."""
        part = self
        for name in shape:
            if name == ":":
                part.parameter = part = part.parameter or _Part()
            elif name == "*":
                part.rest = part = part.rest or _Part()
            else:
                part = part.next.setdefault(name, _Part())
        return part

    def find(self, parts: Sequence[str], place: int, method: str | None, values: list[str]) -> _Part | None:
        """The end of a path that `parts` from `place` on match; with `method` None, whatever its methods."""
        if place == len(parts):
            is_it = method in self.methods if method is not None else self.methods
            return self if is_it or self.is_the_servers else None
        name = parts[place]
        part = self.next.get(name)
        if part is not None:
            found = part.find(parts, place + 1, method, values)
            if found is not None:
                return found
        if self.parameter is not None and name:
            values.append(name)
            found = self.parameter.find(parts, place + 1, method, values)
            if found is not None:
                return found
            values.pop()
        if self.rest is None or (method is not None and method not in self.rest.methods):
            return None
        values.append("/".join(parts[place:]))
        return self.rest


def _parts(scope: HTTPScope) -> list[str] | PathInvalidError:
    """The path's parts, of which the first is empty: it is what stands before the first slash."""
    raw = scope.get("raw_path")  # optional in ASGI; without it, the server's own decoding is all that there is
    root = scope.get("root_path", "")
    if raw and b"%" in raw:
        try:
            parts = [unquote_to_bytes(part).decode() for part in raw.removeprefix(root.encode()).split(b"/")]
        except UnicodeDecodeError:
            return PathInvalidError(_NO_UTF_8)
        if any("\0" in part for part in parts):
            return PathInvalidError(_NUL)
    else:
        parts = scope["path"].removeprefix(root).split("/")
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    return parts


async def _refuse(request: Request[Any, Any, Any]) -> None:
    refusal: PathInvalidError = cast("dict[str, Any]", request.scope)[_REFUSAL]
    raise refusal


def _without_body(send: Send) -> Send:
    """The answer to GET, as HEAD has it: servers leave the body out themselves, but not all of them."""

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head
