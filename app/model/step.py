"""A declared step: an HTTP endpoint with its handler."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from app.errors import DeclarationError, HandlerDeclarationError
from app.json_text import is_within
from app.model.schema import Schema, compile_declared
from app.settings import STEP_TIMEOUT_MAX_SECONDS

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD")
RETRIES_MAX = 10  # a step that lost this often fights over one row; more tries make it hotter
TYPES_NOT_SERVED = frozenset({"event", "cron", "noop"})  # Motia's other types of step

_KEYS_READ = frozenset(
    {"type", "name", "method", "path", "description", "flows", "bodySchema", "responseSchema", "middleware"}
    | {"transaction", "retries", "timeoutSeconds"}  # Tidelog's own
    | {"infrastructure"}  # of which the handler's timeout is read
)
# Motia's, and without a meaning here: Tidelog has no topics, no workbench and bundles nothing.
_KEYS_IGNORED = frozenset({"emits", "virtualEmits", "virtualSubscribes", "queryParams", "includeFiles"})

_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_NOT_IN_A_SEGMENT = re.compile(r"[\s:{}*?#%\\\x00-\x1f]")


@dataclass(frozen=True, slots=True)
class Step:
    """One *_step.py file with `type: "api"`."""

    name: str
    method: str  # upper case
    path: str  # as declared, with :param
    handler: Callable[..., Any] = field(repr=False)  # handler(req, context) or handler(req), async or plain
    description: str = ""
    flows: tuple[str, ...] = ()
    body_schema: Schema | None = field(default=None, repr=False)
    response_schemas: dict[int, dict[str, Any] | bool] = field(default_factory=dict, repr=False)  # by status
    transaction: bool = True  # False: every stream operation commits by itself
    retries: int = 0  # how often the handler is run again after a deadlock, lock timeout or serialisation failure
    timeout_seconds: float | None = None  # how long the handler may run; 0: no limit; None: the server's setting
    file: Path | None = None

    @classmethod
    def from_config(cls, config: dict[str, Any], handler: Any, file: Path | None = None) -> Self:
        """Read an API step's `config`. Raises DeclarationError saying what is wrong with it.

        A key whose value is None counts as absent. `responseSchema` is `{status: schema}`; one plain schema
        is that of status 200.
        """
        _refuse_unknown(config)
        given = {key: value for key, value in config.items() if value is not None}
        if given.get("middleware"):
            raise DeclarationError(
                "middleware is not supported yet, and a step that is served without it could be open to all: "
                "call what it does at the start of the handler, and remove the entry"
            )
        path = _text(given, "path")
        parse_path(path)
        body = given.get("bodySchema")
        return cls(
            name=_text(given, "name"),
            method=_method(given),
            path=path,
            handler=_checked_handler(handler),
            description=_text(given, "description", ""),
            flows=_flows(given),
            body_schema=None if body is None else _body_schema(body),
            response_schemas=_response_schemas(given.get("responseSchema", {})),
            transaction=_transaction(given),
            retries=_retries(given),
            timeout_seconds=_timeout_seconds(given),
            file=file,
        )

    @property
    def shape(self) -> tuple[str, ...]:
        """The path's segments, every parameter as ":". Two paths of one shape match the same requests."""
        return tuple(":" if segment.startswith(":") else segment for segment in parse_path(self.path))


def parse_path(path: str) -> tuple[str, ...]:
    """The segments of a declared path, without empty ones; or DeclarationError."""
    if not path.startswith("/"):
        raise DeclarationError(f"path {path!r} must begin with '/', for example '/chat/:room'")
    segments = tuple(path.strip("/").split("/")) if path.strip("/") else ()
    parameters = [segment[1:] for segment in segments if segment.startswith(":")]
    for name in parameters:
        if not _PARAMETER.fullmatch(name):
            raise DeclarationError(
                f"path {path!r}: ':{name}' must be ':' and a name of letters, digits and '_', like ':room'"
            )
        if parameters.count(name) > 1:
            raise DeclarationError(f"path {path!r} has two parameters named ':{name}': rename one")
    for segment in segments:
        if segment in ("", ".", "..") or _NOT_IN_A_SEGMENT.search(segment.removeprefix(":")):
            raise DeclarationError(
                f"path {path!r}: the segment {segment!r} can't be matched; write plain text without spaces "
                "and : { } * ? # % \\, or one whole ':param'"
            )
    return segments


def _refuse_unknown(config: dict[str, Any]) -> None:
    unknown = sorted(map(repr, config.keys() - _KEYS_READ - _KEYS_IGNORED))
    if unknown:
        raise DeclarationError(
            f"config has {', '.join(unknown)}, which no API step has; its keys are " + ", ".join(sorted(_KEYS_READ))
        )


def _text(given: dict[str, Any], key: str, default: str | None = None) -> str:
    value = given.get(key, default)
    if not isinstance(value, str) or (default is None and not value.strip()):
        said = f"not {value!r:.80}" if key in given else "and it is missing"
        raise DeclarationError(f'config["{key}"] must be a string, {said}')
    return value


def _method(given: dict[str, Any]) -> str:
    method = _text(given, "method").upper()
    if method not in METHODS:
        raise DeclarationError(f'config["method"] must be one of {", ".join(METHODS)}, not {method!r:.80}')
    return method


def _flows(given: dict[str, Any]) -> tuple[str, ...]:
    flows = given.get("flows", ())
    if not isinstance(flows, list | tuple) or not all(isinstance(flow, str) for flow in flows):
        raise DeclarationError(f'config["flows"] must be a list of strings, not {flows!r:.80}')
    return tuple(flows)


def _transaction(given: dict[str, Any]) -> bool:
    transaction = given.get("transaction", True)
    if not isinstance(transaction, bool):
        raise DeclarationError(f'config["transaction"] must be True or False, not {transaction!r:.80}')
    return transaction


def _retries(given: dict[str, Any]) -> int:
    retries = given.get("retries", 0)
    if not isinstance(retries, int) or isinstance(retries, bool) or not 0 <= retries <= RETRIES_MAX:
        raise DeclarationError(f'config["retries"] must be from 0 to {RETRIES_MAX}, not {retries!r:.80}')
    if retries and given.get("transaction") is False:
        raise DeclarationError(
            'config["retries"] needs a transaction, as without one the first try\'s work stays: remove one of them'
        )
    return retries


def _timeout_seconds(given: dict[str, Any]) -> float | None:
    if "timeoutSeconds" in given:
        return _limit('config["timeoutSeconds"]', given["timeoutSeconds"])
    infrastructure = given.get("infrastructure")
    handler = infrastructure.get("handler") if isinstance(infrastructure, dict) else None
    timeout = handler.get("timeout") if isinstance(handler, dict) else None
    return None if timeout is None else _limit('config["infrastructure"]["handler"]["timeout"]', timeout)


def _limit(key: str, seconds: Any) -> float:
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 <= seconds <= STEP_TIMEOUT_MAX_SECONDS:
        raise DeclarationError(
            f"{key} must be a number of seconds up to {STEP_TIMEOUT_MAX_SECONDS:g}, 0 for no limit, not {seconds!r:.80}"
        )
    return float(seconds)


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


def _checked_handler(handler: Any) -> Callable[..., Any]:
    if not callable(handler):
        raise HandlerDeclarationError(
            "the file needs `async def handler(req, context)`"
            + ("" if handler is None else f"; handler is {handler!r:.80}")
        )
    if inspect.isasyncgenfunction(handler) or inspect.isgeneratorfunction(handler):
        raise HandlerDeclarationError("handler yields: an API step returns its answer once, with `return`")
    signature = inspect.signature(handler)
    for arguments in (("req", "context"), ("req",)):
        try:
            signature.bind(*arguments)
            return handler  # type: ignore[no-any-return]
        except TypeError:
            continue
    raise HandlerDeclarationError(f"handler{signature} must take (req, context) or (req)")
