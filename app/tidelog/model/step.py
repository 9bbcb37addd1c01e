"""A declared step: a handler, and what makes it run."""

import inspect
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from tidelog.errors import DeclarationError, HandlerDeclarationError
from tidelog.model.reaction import (
    CronTrigger,
    EventTrigger,
    Queue,
    Reaction,
    StateTrigger,
    StreamTrigger,
    conditional,
    emits_of,
)
from tidelog.model.rule import is_async
from tidelog.model.trigger import HttpTrigger, text_of
from tidelog.settings import STEP_TIMEOUT_MAX_SECONDS

MIDDLEWARE_MAX = 20
RETRIES_MAX = 10  # a step that lost this often fights over one row; more tries make it hotter

_REACTIONS: dict[str, type[Reaction]] = {
    "event": EventTrigger,
    "cron": CronTrigger,
    "stream": StreamTrigger,
    "state": StateTrigger,
}
TYPES = ("api", *_REACTIONS, "noop")
_KEYS_READ = frozenset(
    {"type", "name", "method", "path", "description", "flows", "bodySchema", "responseSchema", "middleware"}
    | {"transaction", "retries", "timeoutSeconds", "auth", "guards"}  # Tidelog's own
    | {"infrastructure", "emits"}  # of the first the handler's timeout is read
)
_KEYS_OF_REACTIONS = frozenset(
    {"type", "name", "description", "flows", "emits", "infrastructure", "condition"}
    | {"transaction", "retries", "timeoutSeconds"}
)
_KEYS_OF_TYPES = {
    "event": frozenset({"subscribes", "input"}),
    "cron": frozenset({"cron"}),
    "stream": frozenset({"streamName", "groupId", "itemId"}),
    "state": frozenset({"groupId", "itemId"}),
}
# Motia's, and without a meaning here: Tidelog has no workbench and bundles nothing.
_KEYS_IGNORED = frozenset({"virtualEmits", "virtualSubscribes", "queryParams", "includeFiles"})


@dataclass(frozen=True, slots=True)
class Step:
    """One *_step.py file."""

    name: str
    handler: Callable[..., Any] = field(repr=False)  # handler(req, context) or handler(req), async or plain
    triggers: tuple[HttpTrigger | Reaction, ...]  # none of a noop
    description: str = ""
    flows: tuple[str, ...] = ()
    transaction: bool = True  # False: every stream operation commits by itself
    retries: int = 0  # how often the handler is run again after a deadlock, lock timeout or serialisation failure
    timeout_seconds: float | None = None  # how long the handler may run; 0: no limit; None: the server's setting
    middleware: tuple[Callable[..., Any], ...] = ()  # mw(req, context, next_fn), the first is the outermost
    guards: tuple[Callable[..., Any], ...] = ()  # Litestar's
    needs_caller: bool = False  # whether somebody must be known to have sent the request
    emits: tuple[str, ...] = ()  # the topics of its events
    queue: Queue = field(default_factory=Queue)  # how its jobs are treated, if it is no API step
    context_first: bool = False  # a handler of one parameter gets the context: there is no input
    file: Path | None = None

    @classmethod
    def from_config(cls, config: dict[str, Any], handler: Any, file: Path | None = None) -> Self:
        """Read an API step's `config`. Raises DeclarationError saying what is wrong with it.

        A key whose value is None counts as absent.
        """
        _refuse_unknown(config, "API", _KEYS_READ)
        given = {key: value for key, value in config.items() if value is not None}
        refuse_absent(config, ("auth", "guards"))
        checked = _checked_handler(handler)
        return cls(
            name=text_of(given, "name"),
            handler=checked,
            triggers=HttpTrigger.all_from_config(given),
            description=text_of(given, "description", ""),
            flows=_flows(given),
            transaction=_transaction(given),
            retries=_retries(given),
            timeout_seconds=_timeout_seconds(given),
            middleware=_middleware(given, checked),
            guards=_functions(given, "guards"),
            needs_caller=_needs_caller(given),
            emits=emits_of(given),
            file=file,
        )

    @classmethod
    def of_reaction(cls, config: dict[str, Any], handler: Any, file: Path | None = None) -> Self:
        """Read the `config` of an event, cron, stream or state step. Raises DeclarationError."""
        kind = config["type"]
        _refuse_unknown(config, kind, _KEYS_OF_REACTIONS | _KEYS_OF_TYPES[kind])
        given = {key: value for key, value in config.items() if value is not None}
        refuse_absent(config, ("condition",))
        queue = Queue.from_config(given)
        timeout_seconds = _timeout_seconds(given)
        arguments = ("input", "context") if kind != "cron" else ("context",)
        return cls(
            name=text_of(given, "name"),
            handler=conditional(_checked_handler(handler, *arguments), given, context_first=kind == "cron"),
            triggers=(_REACTIONS[kind].from_config(given),),
            description=text_of(given, "description", ""),
            flows=_flows(given),
            transaction=_transaction(given),
            retries=_retries(given),
            timeout_seconds=queue.visibility_seconds if timeout_seconds is None else timeout_seconds,
            emits=emits_of(given),
            queue=queue,
            context_first=kind == "cron",
            file=file,
        )

    @classmethod
    def of_noop(cls, config: dict[str, Any], file: Path | None = None) -> Self:
        """A step that stands in pictures of a flow for what others do."""
        given = {key: value for key, value in config.items() if value is not None}
        return cls(name=text_of(given, "name"), handler=_do_nothing, triggers=(), flows=_flows(given), file=file)

    @property
    def reaction(self) -> Reaction | None:
        """What makes it run, if it is no request."""
        return next((one for one in self.triggers if not isinstance(one, HttpTrigger)), None)


class Endpoint(NamedTuple):
    """One thing that a request can be for."""

    step: Step
    http: HttpTrigger


def endpoints_of(steps: Iterable[Step]) -> list[Endpoint]:
    return [Endpoint(step, one) for step in steps for one in step.triggers if isinstance(one, HttpTrigger)]


def reacting(steps: Iterable[Step]) -> tuple[Step, ...]:
    """Those that workers run."""
    return tuple(step for step in steps if step.reaction is not None)


def subscribing(steps: Iterable[Step], topics: Collection[str]) -> tuple[Step, ...]:
    """Those that subscribe to one of `topics`. They get their other topics' events as well."""
    return tuple(
        step for step in steps if isinstance(step.reaction, EventTrigger) and set(step.reaction.topics) & set(topics)
    )


def _do_nothing(_context: Any) -> None:
    """The handler of a noop, which nothing calls."""


def _refuse_unknown(config: dict[str, Any], kind: str, known: frozenset[str]) -> None:
    unknown = sorted(map(repr, config.keys() - known - _KEYS_IGNORED))
    if unknown:
        raise DeclarationError(
            f"config has {', '.join(unknown)}, which no {kind} step has; its keys are "
            f"{', '.join(sorted(known))}; and, without effect here, {', '.join(sorted(_KEYS_IGNORED))}"
        )


def refuse_absent(config: dict[str, Any], keys: Iterable[str]) -> None:
    """Raise DeclarationError for a key that closes something, and whose value is None: that closes nothing."""
    for key in keys:
        if key in config and config[key] is None:
            raise DeclarationError(f'config["{key}"] is None: nothing would be guarded; leave it out if that is meant')


def _needs_caller(given: dict[str, Any]) -> bool:
    auth = given.get("auth", "optional")
    if auth not in ("required", "optional"):
        raise DeclarationError(f'config["auth"] must be "required" or "optional", not {auth!r:.80}')
    return bool(auth == "required")


def _functions(given: dict[str, Any], key: str) -> tuple[Callable[..., Any], ...]:
    functions = given.get(key, ())
    if not isinstance(functions, list | tuple) or not all(map(callable, functions)):
        raise DeclarationError(f'config["{key}"] must be a list of functions, not {functions!r:.80}')
    return tuple(functions)


def _middleware(given: dict[str, Any], handler: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    functions = _functions(given, "middleware")
    if len(functions) > MIDDLEWARE_MAX:
        raise DeclarationError(f'config["middleware"] has {len(functions)} functions; there may be {MIDDLEWARE_MAX}')
    for each in functions:
        name = f'config["middleware"]: {getattr(each, "__name__", each)!r:.80}'
        if not is_async(each):
            raise DeclarationError(f"{name} must be `async def middleware(req, context, next_fn)`")
        try:
            inspect.signature(each).bind("req", "context", "next_fn")
        except TypeError:
            raise DeclarationError(f"{name} must take (req, context, next_fn)") from None
    if functions and not is_async(handler):
        raise DeclarationError(
            "middleware needs `async def handler(req, context)`: a plain one runs in a thread, and they share a context"
        )
    return functions


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


def _checked_handler(handler: Any, *names: str) -> Callable[..., Any]:
    """It takes these arguments, or the first of them; those of a request if none are named."""
    taken = names or ("req", "context")
    parameters = ", ".join(taken)
    if not callable(handler):
        raise HandlerDeclarationError(
            f"the file needs `async def handler({parameters})`"
            + ("" if handler is None else f"; handler is {handler!r:.80}")
        )
    if inspect.isasyncgenfunction(handler) or inspect.isgeneratorfunction(handler):
        raise HandlerDeclarationError("handler yields: a step returns once, with `return`")
    signature = inspect.signature(handler)
    forms = (taken, taken[:1]) if taken != ("context",) else (taken, ("input", "context"))
    for arguments in forms:
        try:
            signature.bind(*arguments)
            return handler  # type: ignore[no-any-return]
        except TypeError:
            continue
    raise HandlerDeclarationError(
        f"handler{signature} must take " + " or ".join(f"({', '.join(form)})" for form in forms)
    )
