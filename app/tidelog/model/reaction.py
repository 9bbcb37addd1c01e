"""What makes a step run beside requests: events, the clock, changes of streams and state. And how its queue treats it.

Read from a step's `config`, as Motia 0.17 has it; how it is served is not its business.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self, cast

from cronsim import CronSim, CronSimError

from tidelog.errors import DeclarationError
from tidelog.model.item import KEY_LENGTH_MAX_BYTES
from tidelog.model.rule import is_async
from tidelog.model.schema import Schema, compile_declared
from tidelog.model.trigger import text_of

RETRIES_DEFAULT = 3  # Motia's
RETRIES_MAX = 100  # with a pause of up to some minutes each, that is hours
DELAY_MAX_SECONDS = 86_400.0  # what is to be done another day is a cron step's
CONCURRENCY_MAX = 1000
TOPIC_LENGTH_MAX = 200
CRON_TOPIC, STREAM_TOPIC, STATE_TOPIC = "cron", "stream", "state"  # of jobs that no event has made

_QUEUE_KEYS = frozenset({"type", "maxRetries", "visibilityTimeout", "delaySeconds", "concurrency", "whenParked"})


@dataclass(frozen=True, slots=True)
class EventTrigger:
    """An event of one of these topics (`type: "event"`)."""

    topics: tuple[str, ...]
    input_schema: Schema | None = field(default=None, repr=False)

    @classmethod
    def from_config(cls, given: dict[str, Any]) -> Self:
        topics = given.get("subscribes")
        if not isinstance(topics, list | tuple) or not topics:
            raise DeclarationError(f'config["subscribes"] must be a list of topics, not {topics!r:.80}')
        declared = given.get("input")
        try:
            schema = None if declared is None else compile_declared(declared)
        except DeclarationError as error:
            raise DeclarationError(f"input: {error}") from error
        return cls(tuple(_topic("subscribes", topic) for topic in topics), schema)


@dataclass(frozen=True, slots=True)
class CronTrigger:
    """A tick of the clock (`type: "cron"`)."""

    expression: str

    @classmethod
    def from_config(cls, given: dict[str, Any]) -> Self:
        expression = " ".join(text_of(given, "cron").split())
        try:
            next(CronSim(expression, datetime.now(UTC)))
        except (CronSimError, StopIteration) as error:
            raise DeclarationError(
                f'config["cron"] is {expression!r:.80}, which is no time ({error or "it never comes"}): write minute, '
                "hour, day, month and weekday, like '*/5 * * * *', or six fields, of which the first is the second"
            ) from None
        return cls(expression)


@dataclass(frozen=True, slots=True)
class StreamTrigger:
    """A change of an item of this stream, of one group or one item if they are named (`type: "stream"`)."""

    stream: str
    group_id: str | None = None
    item_id: str | None = None

    @classmethod
    def from_config(cls, given: dict[str, Any]) -> Self:
        return cls(text_of(given, "streamName"), _key_of(given, "groupId"), _key_of(given, "itemId"))

    def takes(self, stream: str, group_id: str, item_id: str) -> bool:
        return (
            stream == self.stream
            and (self.group_id is None or group_id == self.group_id)
            and (self.item_id is None or item_id == self.item_id)
        )


@dataclass(frozen=True, slots=True)
class StateTrigger:
    """A change of what steps keep by `context.state`, of one group or one key if they are named (`type: "state"`)."""

    group_id: str | None = None
    key: str | None = None

    @classmethod
    def from_config(cls, given: dict[str, Any]) -> Self:
        return cls(_key_of(given, "groupId"), _key_of(given, "itemId"))


Reaction = EventTrigger | CronTrigger | StreamTrigger | StateTrigger


@dataclass(frozen=True, slots=True)
class Queue:
    """How a step's jobs are treated: `infrastructure.queue`."""

    is_fifo: bool = False  # one after the other, in the order of a messageGroupId
    retries_max: int = RETRIES_DEFAULT
    delay_seconds: float = 0.0
    concurrency: int | None = None  # how many run at a time in the whole cluster; None: any number
    stops_when_parked: bool = False  # whether the rest of a messageGroupId waits behind a job that was given up
    visibility_seconds: float | None = None  # Motia's time for a handler and its cleaning up

    @classmethod
    def from_config(cls, given: dict[str, Any]) -> Self:
        infrastructure = given.get("infrastructure")
        queue = infrastructure.get("queue") if isinstance(infrastructure, dict) else None
        if queue is None:
            return cls()
        if not isinstance(queue, dict):
            raise DeclarationError(f'config["infrastructure"]["queue"] must be a dict, not {queue!r:.80}')
        unknown = sorted(map(repr, queue.keys() - _QUEUE_KEYS))
        if unknown:
            raise DeclarationError(
                f'config["infrastructure"]["queue"] has {", ".join(unknown)}; there are '
                f"{', '.join(sorted(_QUEUE_KEYS))}"
            )
        said = {key: value for key, value in queue.items() if value is not None}
        return cls(
            is_fifo=_choice(said, "type", ("standard", "fifo")) == "fifo",
            retries_max=int(_number(said, "maxRetries", 0, RETRIES_MAX, RETRIES_DEFAULT, whole=True)),
            delay_seconds=_number(said, "delaySeconds", 0, DELAY_MAX_SECONDS, 0.0),
            concurrency=_whole_or_none(said, "concurrency", CONCURRENCY_MAX),
            stops_when_parked=_choice(said, "whenParked", ("continue", "stop")) == "stop",
            visibility_seconds=_whole_or_none(said, "visibilityTimeout", int(DELAY_MAX_SECONDS)),
        )


def emits_of(given: dict[str, Any]) -> tuple[str, ...]:
    """The topics that a step says it emits: texts, or dicts with a `topic`, whose other keys are for pictures."""
    emits = given.get("emits", ())
    if not isinstance(emits, list | tuple):
        raise DeclarationError(f'config["emits"] must be a list of topics, not {emits!r:.80}')
    return tuple(_topic("emits", one.get("topic") if isinstance(one, dict) else one) for one in emits)


def conditional(handler: Callable[..., Any], given: dict[str, Any], *, context_first: bool) -> Callable[..., Any]:
    """`handler`, called only if the config's `condition(input, context)` says so."""
    condition = given.get("condition")
    if condition is None:
        return handler
    try:
        inspect.signature(condition).bind("input", "context")
    except TypeError:
        raise DeclarationError(
            f'config["condition"] must be a function of (input, context), not {condition!r:.80}'
        ) from None
    takes_both = takes_two(handler)

    def arguments(input: Any, context: Any) -> tuple[Any, ...]:
        return (input, context) if takes_both else (context if context_first else input,)

    if is_async(handler):

        @functools.wraps(handler)
        async def ask_first(input: Any, context: Any) -> Any:
            said = condition(input, context)
            if inspect.isawaitable(said):
                said = await said
            return await handler(*arguments(input, context)) if said else None

        return _with_two_parameters(ask_first)
    if is_async(condition):
        raise DeclarationError('config["condition"] is async, and the handler is not: make both the same')

    @functools.wraps(handler)
    def ask_first_plainly(input: Any, context: Any) -> Any:
        return handler(*arguments(input, context)) if condition(input, context) else None

    return _with_two_parameters(ask_first_plainly)


def takes_two(function: Callable[..., Any]) -> bool:
    """Whether it takes more than one argument by its place."""
    positional = 0
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            return True
        positional += parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    return positional >= 2


def _with_two_parameters(wrapper: Any) -> Callable[..., Any]:
    """One whose signature is its own, and not the handler's that it stands for otherwise."""
    wrapper.__signature__ = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("input", "context")]
    )
    return cast("Callable[..., Any]", wrapper)


def _key_of(given: dict[str, Any], name: str) -> str | None:
    """A group's or an item's id, if it is said, as one can be."""
    if name not in given:
        return None
    key = text_of(given, name)
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = 0
    if "\0" in key or not 1 <= size <= KEY_LENGTH_MAX_BYTES:
        raise DeclarationError(
            f'config["{name}"] is {key!r:.80}, which no id is: 1 to {KEY_LENGTH_MAX_BYTES} bytes of UTF-8, without NUL'
        )
    return key


def _topic(key: str, topic: Any) -> str:
    if not isinstance(topic, str) or not 0 < len(topic) <= TOPIC_LENGTH_MAX or "\0" in topic:
        raise DeclarationError(
            f'config["{key}"]: a topic is a text of 1 to {TOPIC_LENGTH_MAX} characters, not {topic!r:.80}'
        )
    return topic


def _choice(said: dict[str, Any], key: str, choices: tuple[str, ...]) -> str:
    value = said.get(key, choices[0])
    if value not in choices:
        raise DeclarationError(
            f'config["infrastructure"]["queue"]["{key}"] must be {" or ".join(map(repr, choices))}, not {value!r:.80}'
        )
    return str(value)


def _whole_or_none(said: dict[str, Any], key: str, most: int) -> int | None:
    return int(_number(said, key, 1, most, 1, whole=True)) if key in said else None


def _number(said: dict[str, Any], key: str, least: float, most: float, default: float, *, whole: bool = False) -> float:
    value = said.get(key, default)
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        raise DeclarationError(
            f'config["infrastructure"]["queue"]["{key}"] must be a{" whole" if whole else ""} number from {least:g} to '
            f"{most:g}, not {value!r:.80}"
        )
    return float(value)
