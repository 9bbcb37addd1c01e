"""Reads a step file of Motia 1.0: each of its `triggers` becomes a step of ours, with one handler behind them.

A step's jobs are told apart by its name, so those that no request runs are named after their trigger, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from tidelog.errors import DeclarationError
from tidelog.model.reaction import takes_two
from tidelog.model.rule import is_async
from tidelog.model.step import Step, endpoints_of
from tidelog.motia.builders import StepDefinition
from tidelog.motia.configs import given_in
from tidelog.motia.flow import FlowContext, TriggerInfo
from tidelog.motia.messages import ApiRequest, ApiResponse, StateTriggerInput, StreamTriggerInput

CONDITION_STATUS = 422
_KEYS = frozenset({"enqueues", "virtualEnqueues", "triggers", "emits"})
_TYPES = ("http", "api", "queue", "event", "cron", "stream", "state")
_OF_REQUESTS = frozenset({"auth", "guards"})
_ELSEWHERE = {
    "type": 'leave "type" out',
    "condition": "a condition is a trigger's",
    "middleware": "middleware is a trigger's",
}
_EXPRESSION_FIELDS_MAX = 6  # of ours; Motia's seventh is the year


def definition_of(module: ModuleType) -> StepDefinition | None:
    """What the file declares, if it has triggers: `config` and `handler`, or a StepDefinition by any name."""
    config = getattr(module, "config", None)
    if isinstance(config, StepDefinition):
        return config
    try:
        given = given_in(config)
    except TypeError:
        found = [one for one in vars(module).values() if isinstance(one, StepDefinition)]
        return found[0] if config is None and len(found) == 1 else None
    return StepDefinition(config, getattr(module, "handler", None)) if "triggers" in given else None  # type: ignore[arg-type]


def steps_of(definition: StepDefinition, file: Path | None = None) -> tuple[Step, ...]:
    """Raises DeclarationError: of one trigger that can't be served, the whole file isn't."""
    config = given_in(definition.config)
    triggers = config.get("triggers")
    if not isinstance(triggers, list | tuple) or not triggers:
        raise DeclarationError(f'config["triggers"] must be a list of triggers, not {triggers!r:.80}')
    for key, instead in _ELSEWHERE.items():
        if key in config:
            raise DeclarationError(f'config has "{key}" and "triggers": {instead}')
    shared = {key: value for key, value in config.items() if key not in _KEYS}
    shared["emits"] = [
        one if isinstance(one, str) else given_in(one) for key in ("enqueues", "emits") for one in config.get(key) or ()
    ]
    if not isinstance(shared.get("name"), str):
        raise DeclarationError(f'config["name"] must be a string, not {shared.get("name")!r:.80}')
    reading = _Reading(shared, definition.handler, file)
    steps = []
    for index, trigger in enumerate(triggers):
        try:
            steps.append(reading.step_of(_trigger(trigger), index))
        except DeclarationError as error:
            error.args = (f'config["triggers"][{index}]: {error}', *error.args[1:])
            raise
    unused = sorted(_OF_REQUESTS & shared.keys())
    if unused and not endpoints_of(steps):
        raise DeclarationError(f"config has {unused[0]!r}, which is for requests, and no http trigger")
    return tuple(steps)


class _Reading:
    """One run over the triggers of a file."""

    def __init__(self, shared: dict[str, Any], handler: Any, file: Path | None) -> None:
        """`shared` is what the config says of all triggers."""
        self._shared = shared
        self._handler = handler
        self._file = file
        self._names: set[str] = set()

    def step_of(self, trigger: dict[str, Any], index: int) -> Step:
        """Raises DeclarationError."""
        kind = {"api": "http", "event": "queue"}.get(trigger["type"], trigger["type"])
        rest = {key: value for key, value in trigger.items() if key not in ("type", "condition", "middleware")}
        config = {**self._shared, **_FORMS[kind](rest)}
        infrastructure = _infrastructure(config.pop("infrastructure", None), config.pop("config", None))
        if infrastructure and (kind != "http" or "handler" in infrastructure):
            config["infrastructure"] = infrastructure
        condition, middleware = trigger.get("condition"), trigger.get("middleware") or ()
        _check_condition(condition, self._handler)
        if kind == "http":
            # Checked as a step's of ours, and then called by us: it has the request and the context of Motia's.
            step = Step.from_config({**config, "type": "api", "middleware": middleware}, self._handler, self._file)
            info = TriggerInfo("http", index, path=trigger["path"], method=endpoints_of([step])[0].http.method)
            return replace(step, handler=_adapted(self._handler, info, condition, tuple(middleware)), middleware=())
        if middleware:
            raise DeclarationError("middleware is for http triggers")
        # Said of a step that has requests, too, it is for those.
        config = {key: value for key, value in config.items() if key not in _OF_REQUESTS or key in trigger}
        config["name"] = _own_name(f"{self._shared['name']}:{kind}", trigger, self._names)
        config["type"] = "event" if kind == "queue" else kind
        step = Step.of_reaction(config, self._handler, self._file)
        info = TriggerInfo(kind, index, topic=trigger.get("topic"), expression=trigger.get("expression"))
        return replace(step, handler=_adapted(self._handler, info, condition, (), config.get("input")))


def _trigger(declared: Any) -> dict[str, Any]:
    try:
        given = given_in(declared)
    except TypeError:
        given = {}
    kind = given.get("type")
    if kind not in _TYPES:
        raise DeclarationError(f"a trigger is http, queue, cron, stream or state, not {declared!r:.80}")
    # `auth: None` is refused where it is read, as it closes nothing.
    return {key: value for key, value in given.items() if value is not None or key in _OF_REQUESTS}


def _own_name(name: str, trigger: dict[str, Any], names: set[str]) -> str:
    """The same at each start, as its jobs may wait; of those with one label, as long as their order is the same."""
    parts = [trigger.get(key) for key in ("topic", "streamName", "groupId", "itemId")]
    label = ":".join(part for part in parts if isinstance(part, str))
    wanted = f"{name}:{label}" if label else name
    number = 1
    while wanted in names:
        number += 1
        wanted = f"{name}:{label}:{number}" if label else f"{name}:{number}"
    names.add(wanted)
    return wanted


def _queue_form(given: dict[str, Any]) -> dict[str, Any]:
    topic = given.pop("topic", None)
    return {**given, "subscribes": [topic]}


def _cron_form(given: dict[str, Any]) -> dict[str, Any]:
    expression = given.pop("expression", given.pop("cron", None))
    fields = expression.split() if isinstance(expression, str) else []
    if len(fields) > _EXPRESSION_FIELDS_MAX and fields[-1] == "*":
        expression = " ".join(fields[:-1])
    return {**given, "cron": expression}


_FORMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "http": dict,
    "queue": _queue_form,
    "cron": _cron_form,
    "stream": dict,
    "state": dict,
}


_INPUTS = {"stream": StreamTriggerInput, "state": StateTriggerInput}


def _infrastructure(declared: Any, queue: Any) -> dict[str, Any]:
    """As 0.17 has it, of dicts or of Motia's classes; `queue` is a queue trigger's own."""
    given = {} if declared is None else given_in(declared)
    if queue is not None:
        given["queue"] = queue
    return {
        key: given_in(value) if isinstance(value, Mapping) or hasattr(value, "model_fields_set") else value
        for key, value in given.items()
        if value is not None
    }


def _check_condition(condition: Any, handler: Any) -> None:
    if condition is None:
        return
    try:
        inspect.signature(condition).bind("input", "ctx")
    except (TypeError, ValueError):
        raise DeclarationError(f"condition must be a function of (input, ctx), not {condition!r:.80}") from None
    if is_async(condition) and not is_async(handler):
        raise DeclarationError("condition is async, and the handler is not: make both the same")


def _adapted(
    handler: Any, info: TriggerInfo, condition: Any, middleware: tuple[Any, ...], model: Any = None
) -> Callable[..., Any]:
    """`handler`, called as Motia 1.0 does, from a step of ours. `model` is what a queue's input is made to."""
    makes = model.model_validate if inspect.isclass(model) and issubclass(model, BaseModel) else None
    takes_both = takes_two(handler)
    is_plain = not is_async(handler)

    def given_to(given: Any, context: Any) -> tuple[Any, FlowContext[Any]]:
        input_value = _input_of(info, given) if makes is None else makes(given)
        return input_value, FlowContext(context, info, input_value, is_plain=is_plain)

    def call(input_value: Any, flow: FlowContext[Any]) -> Any:
        if takes_both:
            return handler(input_value, flow)
        return handler(flow if info.type == "cron" else input_value)

    def run_plain(given: Any, context: Any) -> Any:
        input_value, flow = given_to(given, context)
        if condition is not None and not condition(input_value, flow):
            return _not_met(info)
        return _answer_of(call(input_value, flow))

    async def run(given: Any, context: Any) -> Any:
        input_value, flow = given_to(given, context)
        if condition is not None:
            said = condition(input_value, flow)
            if not (await said if inspect.isawaitable(said) else said):
                return _not_met(info)
        following: Callable[[], Any] = partial(call, input_value, flow)
        for one in reversed(middleware):
            following = partial(one, input_value, flow, following)
        return _answer_of(await following())

    return run_plain if is_plain else run


def _input_of(info: TriggerInfo, given: Any) -> Any:
    if info.type == "http":
        return ApiRequest(
            path_params=given["pathParams"],
            query_params=given["queryParams"],
            body=given["body"],
            headers=given["headers"],
            method=info.method or "",
            raw_body=given.get("rawBody", ""),
            auth=given.get("auth"),
        )
    if info.type == "cron":
        return None
    return _INPUTS[info.type](given) if info.type in _INPUTS else given


def _answer_of(returned: Any) -> Any:
    if isinstance(returned, ApiResponse) or _is_response(returned):
        return {key: getattr(returned, key) for key in ("status", "body", "headers")}
    if isinstance(returned, dict) and "status_code" in returned and "status" not in returned:
        return {
            **{key: value for key, value in returned.items() if key != "status_code"},
            "status": returned["status_code"],
        }
    return returned


def _is_response(returned: Any) -> bool:
    """Whether it is the real package's ApiResponse."""
    return isinstance(returned, BaseModel) and {"status", "body", "headers"} <= type(returned).model_fields.keys()


def _not_met(info: TriggerInfo) -> Any:
    """What a caller gets; a job is done."""
    if info.type != "http":
        return None
    message = "the step's condition for this request is not met"
    return {"status": CONDITION_STATUS, "body": {"error": {"code": "condition_not_met", "message": message}}}
