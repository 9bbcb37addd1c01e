"""What authors' files get for `from motia import ...` where the real package isn't installed: Motia 1.0's names.

A step's `triggers`, what its handler is given and answers, and the streams, state and topics that it uses.
Knows nothing of how steps are run.
"""

from typing import Any

from tidelog.motia.builders import MultiTriggerStepBuilder, StepBuilder, StepDefinition, multi_trigger_step, step
from tidelog.motia.calls import StateManager, Stream, enqueue, logger, stateManager
from tidelog.motia.configs import (
    ApiTrigger,
    CronTrigger,
    Enqueue,
    HandlerConfig,
    InfrastructureConfig,
    QueryParam,
    QueueConfig,
    QueueTrigger,
    StateTrigger,
    StepConfig,
    StreamConfig,
    StreamTrigger,
    TriggerConfig,
    api,
    cron,
    http,
    queue,
    state,
    stream,
)
from tidelog.motia.flow import FlowContext, TriggerInfo
from tidelog.motia.messages import (
    ApiMiddleware,
    ApiRequest,
    ApiResponse,
    ApiRouteMethod,
    Enqueuer,
    StateTriggerInput,
    StreamEvent,
    StreamSubscription,
    StreamTriggerInput,
    TriggerCondition,
    TriggerInput,
)

state_manager = stateManager

__all__ = [
    "ApiMiddleware",
    "ApiRequest",
    "ApiResponse",
    "ApiRouteMethod",
    "ApiTrigger",
    "CronTrigger",
    "Enqueue",
    "Enqueuer",
    "FlowContext",
    "HandlerConfig",
    "InfrastructureConfig",
    "MultiTriggerStepBuilder",
    "QueryParam",
    "QueueConfig",
    "QueueTrigger",
    "StateManager",
    "StateTrigger",
    "StateTriggerInput",
    "StepBuilder",
    "StepConfig",
    "StepDefinition",
    "Stream",
    "StreamConfig",
    "StreamEvent",
    "StreamSubscription",
    "StreamTrigger",
    "StreamTriggerInput",
    "TriggerCondition",
    "TriggerConfig",
    "TriggerInfo",
    "TriggerInput",
    "api",
    "cron",
    "enqueue",
    "http",
    "logger",
    "multi_trigger_step",
    "queue",
    "state",
    "stateManager",
    "state_manager",
    "step",
    "stream",
]

_CHANNELS = "requests and answers piece by piece are not there: write `request: ApiRequest`, and return ApiResponse"
_ENGINE = "there is no engine beside this server"
_MISSING = {
    **dict.fromkeys(
        ("MotiaHttpArgs", "MotiaHttpRequest", "MotiaHttpResponse", "ChannelReader", "ChannelWriter"), _CHANNELS
    ),
    **dict.fromkeys(("ApiStreamRequest", "ApiStreamHttpRequest", "ApiStreamResponse"), _CHANNELS),
    **dict.fromkeys(("get_instance", "init_iii", "bridge", "Motia", "setup_step_endpoint"), _ENGINE),
    "tracing": "a step's trace is `ctx.trace_id`",
    **dict.fromkeys(("StreamAuthInput", "StreamAuthResult"), "write stream_auth.py, with `authenticate(request)`"),
}


def __getattr__(name: str) -> Any:
    if name in _MISSING:
        raise ImportError(f"motia.{name} does not exist in Tidelog: {_MISSING[name]}")
    raise AttributeError(f"motia has no {name!r} in Tidelog")
