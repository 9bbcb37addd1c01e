"""A declared step: a handler, and what makes it run."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from tidelog.errors import DeclarationError, HandlerDeclarationError
from tidelog.model.trigger import HttpTrigger, text_of
from tidelog.settings import STEP_TIMEOUT_MAX_SECONDS

RETRIES_MAX = 10  # a step that lost this often fights over one row; more tries make it hotter
TYPES_NOT_SERVED = frozenset({"event", "cron", "noop"})  # Motia's other types of step

_KEYS_READ = frozenset(
    {"type", "name", "method", "path", "description", "flows", "bodySchema", "responseSchema", "middleware"}
    | {"transaction", "retries", "timeoutSeconds"}  # Tidelog's own
    | {"infrastructure"}  # of which the handler's timeout is read
)
# Motia's, and without a meaning here: Tidelog has no topics, no workbench and bundles nothing.
_KEYS_IGNORED = frozenset({"emits", "virtualEmits", "virtualSubscribes", "queryParams", "includeFiles"})


@dataclass(frozen=True, slots=True)
class Step:
    """One *_step.py file."""

    name: str
    handler: Callable[..., Any] = field(repr=False)  # handler(req, context) or handler(req), async or plain
    triggers: tuple[HttpTrigger, ...]
    description: str = ""
    flows: tuple[str, ...] = ()
    transaction: bool = True  # False: every stream operation commits by itself
    retries: int = 0  # how often the handler is run again after a deadlock, lock timeout or serialisation failure
    timeout_seconds: float | None = None  # how long the handler may run; 0: no limit; None: the server's setting
    file: Path | None = None

    @classmethod
    def from_config(cls, config: dict[str, Any], handler: Any, file: Path | None = None) -> Self:
        """Read an API step's `config`. Raises DeclarationError saying what is wrong with it.

        A key whose value is None counts as absent.
        """
        _refuse_unknown(config)
        given = {key: value for key, value in config.items() if value is not None}
        if given.get("middleware"):
            raise DeclarationError(
                "middleware is not supported yet, and a step that is served without it could be open to all: "
                "call what it does at the start of the handler, and remove the entry"
            )
        return cls(
            name=text_of(given, "name"),
            handler=_checked_handler(handler),
            triggers=(HttpTrigger.from_config(given),),
            description=text_of(given, "description", ""),
            flows=_flows(given),
            transaction=_transaction(given),
            retries=_retries(given),
            timeout_seconds=_timeout_seconds(given),
            file=file,
        )


class Endpoint(NamedTuple):
    """One thing that a request can be for."""

    step: Step
    http: HttpTrigger


def endpoints_of(steps: Iterable[Step]) -> list[Endpoint]:
    return [Endpoint(step, trigger) for step in steps for trigger in step.triggers]


def _refuse_unknown(config: dict[str, Any]) -> None:
    unknown = sorted(map(repr, config.keys() - _KEYS_READ - _KEYS_IGNORED))
    if unknown:
        raise DeclarationError(
            f"config has {', '.join(unknown)}, which no API step has; its keys are "
            f"{', '.join(sorted(_KEYS_READ))}; and, without effect here, {', '.join(sorted(_KEYS_IGNORED))}"
        )


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
