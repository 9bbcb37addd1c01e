"""How a file of Motia 1.0 declares a step or a stream. Only the forms: what is in them is checked where it is read.

Every class takes Python's spelling of a field and Motia's (`body_schema`, `bodySchema`), as every dict does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Declared(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, arbitrary_types_allowed=True, extra="allow"
    )


def given_in(declared: Any) -> dict[str, Any]:
    """What an author said in `declared`, one of these classes or a dict, by Motia's spelling of its keys.

    A class may be of the real package's as well. Raises TypeError for anything else.
    """
    if isinstance(declared, BaseModel):
        fields = type(declared).model_fields
        said = [name for name in fields if name in declared.model_fields_set or name == "type"]
        values = {fields[name].alias or to_camel(name): getattr(declared, name) for name in said}
        return {**values, **{to_camel(name): value for name, value in (declared.model_extra or {}).items()}}
    if isinstance(declared, Mapping):
        return {to_camel(key) if isinstance(key, str) and "_" in key else key: value for key, value in declared.items()}
    raise TypeError(f"neither a dict nor one of Motia's classes: {declared!r:.80}")


class QueryParam(Declared):
    name: str
    description: str = ""


class HandlerConfig(Declared):
    ram: int | None = None
    cpu: float | None = None
    timeout: float | None = None


class QueueConfig(Declared):
    type: Any = "standard"
    max_retries: Any = None
    visibility_timeout: Any = None
    delay_seconds: Any = None


class InfrastructureConfig(Declared):
    handler: Any = None
    queue: Any = None


class Enqueue(Declared):
    topic: str
    label: str | None = None
    conditional: bool = False


class ApiTrigger(Declared):
    type: str = "http"
    method: str
    path: str
    condition: Any = None
    middleware: Any = None
    body_schema: Any = None
    response_schema: Any = None
    query_params: Any = None


class QueueTrigger(Declared):
    type: str = "queue"
    topic: str
    condition: Any = None
    input: Any = None
    infrastructure: Any = None
    config: Any = None  # what `infrastructure` has as `queue`


class CronTrigger(Declared):
    type: str = "cron"
    expression: str
    condition: Any = None


class StateTrigger(Declared):
    type: str = "state"
    group_id: str | None = None
    item_id: str | None = None
    condition: Any = None


class StreamTrigger(Declared):
    type: str = "stream"
    stream_name: str
    group_id: str | None = None
    item_id: str | None = None
    condition: Any = None


TriggerConfig = QueueTrigger | ApiTrigger | CronTrigger | StateTrigger | StreamTrigger


class StepConfig(Declared):
    name: str
    triggers: list[Any]
    enqueues: list[Any] = []
    virtual_enqueues: list[Any] | None = None
    virtual_subscribes: list[Any] | None = None
    description: str | None = None
    flows: list[str] | None = None
    include_files: list[str] | None = None
    infrastructure: Any = None


class StreamConfig(Declared):
    name: str
    description: str | None = None
    schema_: Any = Field(default=None, alias="schema")
    base_config: dict[str, Any] | None = None
    on_join: Any = None
    on_leave: Any = None


def http(method: str, path: str, **parts: Any) -> ApiTrigger:
    """A request; `body_schema`, `response_schema`, `query_params`, `middleware`, `condition`."""
    return ApiTrigger(method=method, path=path, **parts)


def api(method: str, path: str, **parts: Any) -> ApiTrigger:
    """The earlier name of `http`."""
    return http(method, path, **parts)


def queue(topic: str, **parts: Any) -> QueueTrigger:
    """What is enqueued for the topic; `input`, `infrastructure`, `condition`."""
    return QueueTrigger(topic=topic, **parts)


def cron(expression: str, *, condition: Any = None) -> CronTrigger:
    """The clock; six or seven fields begin with the second."""
    return CronTrigger(expression=expression, condition=condition)


def state(**parts: Any) -> StateTrigger:
    """Changes of the state; `condition`, and `group_id`, `item_id`, which are Tidelog's."""
    return StateTrigger(**parts)


def stream(stream_name: str, **parts: Any) -> StreamTrigger:
    """The changes of a stream; `group_id`, `item_id`, `condition`."""
    return StreamTrigger(stream_name=stream_name, **parts)
