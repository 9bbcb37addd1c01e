"""Events: each becomes a job for each step that subscribes, in the transaction of who emits it, step or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from tidelog.errors import (
    EmitInvalidError,
    ItemInvalidError,
    KeyInvalidError,
    TopicUndeclaredError,
    TopicUnknownError,
    shown,
)
from tidelog.model.reaction import EventTrigger, StateTrigger
from tidelog.model.step import Step
from tidelog.store.asking import Lend
from tidelog.store.context_state import Watcher
from tidelog.store.item_json import to_json
from tidelog.store.jobs import Subscriber, put_event

Topics = Mapping[str, tuple[Subscriber, ...]]

KEY_LENGTH_MAX_BYTES = 512  # a key of an index, as items' keys are
_KEYS = frozenset({"topic", "data", "messageGroupId"})


def topics_of(steps: Iterable[Step]) -> Topics:
    """Who subscribes to what."""
    topics: dict[str, tuple[Subscriber, ...]] = {}
    for step in steps:
        trigger = step.reaction
        if isinstance(trigger, EventTrigger):
            subscriber = Subscriber(step.name, step.queue.is_fifo, step.queue.delay_seconds)
            for topic in dict.fromkeys(trigger.topics):
                topics[topic] = (*topics.get(topic, ()), subscriber)
    return topics


def watchers_of(steps: Iterable[Step]) -> list[Watcher]:
    """Who reacts to changes of the state."""
    return [
        Watcher(step.name, trigger.group_id, trigger.key, step.queue.delay_seconds)
        for step in steps
        if isinstance(trigger := step.reaction, StateTrigger)
    ]


class Emitting(Protocol):
    """Who emits, as far as it is asked."""

    @property
    def name(self) -> str: ...

    @property
    def emits(self) -> Sequence[str]: ...


class Emitter:
    """Emits for all of a process."""

    __slots__ = ("_size_max_bytes", "_topics")

    def __init__(self, steps: Iterable[Step], size_max_bytes: int) -> None:
        """`steps` are those that events may be for."""
        self._topics = topics_of(steps)
        self._size_max_bytes = size_max_bytes

    async def emit(self, event: Any, lend: Lend, trace_id: str, step: Emitting | None = None) -> None:
        """In the transaction that `lend` gives; `step` is who emits, if that is one. Raises EmitInvalidError."""
        if not isinstance(event, Mapping) or not event.keys() <= _KEYS or "topic" not in event:
            raise EmitInvalidError(
                f'an event is {{"topic": ..., "data": ..., "messageGroupId"?: ...}}, not {shown(event)}'
            )
        topic = event["topic"]
        if step is not None and topic not in step.emits:
            raise TopicUndeclaredError(step.name, topic, step.emits)
        if step is None and (not isinstance(topic, str) or topic not in self._topics):
            raise TopicUnknownError(topic, sorted(self._topics))
        try:
            text, _ = to_json(event.get("data"))
        except ItemInvalidError as error:
            raise EmitInvalidError(f"event {topic}: its data is {error}") from error
        size = len(text.encode())
        if size > self._size_max_bytes:
            raise EmitInvalidError(
                f"event {topic}: {size} bytes of JSON; at most {self._size_max_bytes} are taken "
                "(TIDELOG_BODY_SIZE_MAX_BYTES)"
            )
        key = _key(event.get("messageGroupId"))
        subscribers = self._topics.get(topic, ())
        if subscribers:
            await put_event(lend, topic, text, key, trace_id, subscribers)


def _key(given: Any) -> str:
    """Without one, all of a topic's events are one group."""
    if given is None:
        return ""
    key = str(given) if isinstance(given, int) else given
    if not isinstance(key, str):
        raise KeyInvalidError(f"messageGroupId must be a string, not {shown(given)}", given)
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = KEY_LENGTH_MAX_BYTES + 1
    if "\0" in key or size > KEY_LENGTH_MAX_BYTES:
        raise KeyInvalidError(
            f"messageGroupId {shown(key)} must have up to {KEY_LENGTH_MAX_BYTES} bytes of UTF-8, and no NUL character",
            given,
        )
    return key
