"""What makes a step run. A trigger is read from a step's `config`; how it is served is not its business."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field, replace
from typing import Any, Self

from tidelog.errors import DeclarationError
from tidelog.json_text import is_within
from tidelog.model.schema import Schema, compile_declared

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD")

WILDCARD = "0"  # what Express calls the value of a "*" without a name
_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
OPTIONAL_MAX = 4  # parameters of a path that may be missing: each doubles the paths that there are
_NOT_IN_A_SEGMENT = re.compile(r"[\s:{}*?#%\\\x00-\x1f]")


@dataclass(frozen=True, slots=True)
class HttpTrigger:
    """A request with this method at this path (`type: "api"`)."""

    method: str  # upper case
    path: str  # as declared, with :param, or at its end *rest; but for one that has no :param? (see `all_from_config`)
    body_schema: Schema | None = field(default=None, repr=False)
    response_schemas: dict[int, dict[str, Any] | bool] = field(default_factory=dict, repr=False)  # by status

    @classmethod
    def from_config(cls, given: dict[str, Any]) -> Self:
        """Read the HTTP part of an API step's `config`. Raises DeclarationError saying what is wrong with it.

        `responseSchema` is `{status: schema}`; one plain schema is that of status 200.
        """
        path = text_of(given, "path")
        parse_path(path)
        body = given.get("bodySchema")
        return cls(
            method=_method(given),
            path=path,
            body_schema=None if body is None else _body_schema(body),
            response_schemas=_response_schemas(given.get("responseSchema", {})),
        )

    @classmethod
    def all_from_config(cls, given: dict[str, Any]) -> tuple[Self, ...]:
        """One for each path that `config["path"]` means: with and without each parameter that may be missing (:param?).

        Raises DeclarationError saying what is wrong.
        """
        paths = expand_path(text_of(given, "path"))
        first = cls.from_config({**given, "path": paths[0]})
        return (first, *(replace(first, path=path) for path in paths[1:]))

    @property
    def shape(self) -> tuple[str, ...]:
        """The path's segments, every parameter as ":" or "*". Two paths of one shape match the same requests."""
        return shape_of(self.path)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the path's parameters, in their order."""
        return tuple(segment[1:] for segment in parse_path(self.path) if segment[0] in ":*")


def expand_path(path: str) -> tuple[str, ...]:
    """The paths that a declared one means, in Express's spellings, the longest first. Raises DeclarationError.

    `:name?` may be missing; `*name` is one or more segments, as `:name+` is, and `*` alone has the name "0"; `:name*`
    is any number of them, none too.
    """
    segments: list[tuple[str, ...]] = []
    for segment in path.split("/"):
        if segment.startswith(":") and segment[-1] in "?*+":
            name = ("*" if segment[-1] in "*+" else ":") + segment[1:-1]
            segments.append((name,) if segment[-1] == "+" else (name, ""))
        else:
            segments.append(("*0" if segment == "*" else segment,))
    if sum(len(choices) > 1 for choices in segments) > OPTIONAL_MAX:
        raise DeclarationError(f"path {path!r} has more than {OPTIONAL_MAX} parameters that may be missing")
    found: dict[tuple[str, ...], str] = {}
    for choice in itertools.product(*segments):
        kept = [one for one, choices in zip(choice, segments, strict=True) if one or len(choices) == 1]
        one = "/".join(kept) or "/"
        found.setdefault(tuple(part[:1] if part[:1] in ":*" else part for part in parse_path(one)), one)
    return tuple(found.values())


def shape_of(path: str) -> tuple[str, ...]:
    """A declared path's segments, every parameter as ":" or "*"."""
    return tuple(segment[0] if segment[0] in ":*" else segment for segment in parse_path(path))


def parse_path(path: str) -> tuple[str, ...]:
    """The segments of a declared path, without empty ones; or DeclarationError."""
    if not path.startswith("/"):
        raise DeclarationError(f"path {path!r} must begin with '/', for example '/chat/:room'")
    segments = tuple(path.strip("/").split("/")) if path.strip("/") else ()
    parameters = [segment[1:] for segment in segments if segment.startswith((":", "*"))]
    if any(segment.startswith("*") for segment in segments[:-1]):
        raise DeclarationError(f"path {path!r}: what takes the rest of a path ('*') must be its last part")
    for name in parameters:
        if not _PARAMETER.fullmatch(name) and name != WILDCARD:
            raise DeclarationError(
                f"path {path!r}: ':{name}' must be ':' and a name of letters, digits and '_', like ':room'"
            )
        if parameters.count(name) > 1:
            raise DeclarationError(f"path {path!r} has two parameters named ':{name}': rename one")
    for segment in segments:
        if segment in ("", ".", "..") or _NOT_IN_A_SEGMENT.search(_bare(segment)):
            raise DeclarationError(
                f"path {path!r}: the segment {segment!r} can't be matched; write plain text without spaces "
                "and : { } * ? # % \\, or one whole ':param', ':param?' or '*rest'"
            )
    return segments


def _bare(segment: str) -> str:
    return segment[1:] if segment[:1] in (":", "*") else segment


def text_of(given: dict[str, Any], key: str, default: str | None = None) -> str:
    value = given.get(key, default)
    if not isinstance(value, str) or (default is None and not value.strip()):
        said = f"not {value!r:.80}" if key in given else "and it is missing"
        raise DeclarationError(f'config["{key}"] must be a string, {said}')
    return value


def _method(given: dict[str, Any]) -> str:
    method = text_of(given, "method").upper()
    if method not in METHODS:
        raise DeclarationError(f'config["method"] must be one of {", ".join(METHODS)}, not {method!r:.80}')
    return method


def _response_schemas(declared: Any) -> dict[int, dict[str, Any] | bool]:
    statuses = [_status(key) for key in declared] if isinstance(declared, dict) else [None]
    if all(status is None for status in statuses):
        return {} if declared == {} else {200: _compile("responseSchema", declared).document}
    schemas: dict[int, dict[str, Any] | bool] = {}
    for (key, schema), status in zip(declared.items(), statuses, strict=True):
        if status is None or not 200 <= status <= 599 or status in schemas:
            raise DeclarationError(
                f'config["responseSchema"]: {key!r:.80} must be a status from 200 to 599, given once'
            )
        schemas[status] = _compile(f"responseSchema[{status}]", schema).document
    return schemas


def _status(key: Any) -> int | None:
    if isinstance(key, str) and key.isascii() and key.isdigit():
        return int(key[:4])
    return int(key) if isinstance(key, int) else None


def _body_schema(declared: Any) -> Schema:
    schema = _compile("bodySchema", declared)
    if schema.type is not None and is_within(
        schema.document, lambda one: isinstance(one, dict) and one.get("writeOnly") is True
    ):
        raise DeclarationError("bodySchema: a SecretStr would reach the handler as asterisks: use str")
    return schema


def _compile(key: str, declared: Any) -> Schema:
    try:
        return compile_declared(declared)
    except DeclarationError as error:
        raise DeclarationError(f"{key}: {error}") from error
