"""`step(config, handler)` and `multi_trigger_step(config).on_http(...)`: a config and its handler in one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tidelog.errors import DeclarationError
from tidelog.model.rule import is_async

KINDS = ("http", "queue", "cron", "state", "stream")


@dataclass(frozen=True, slots=True)
class StepDefinition:
    """What a step file's `config` and `handler` are."""

    config: Any
    handler: Callable[..., Any]


class StepBuilder:
    """A step that has no handler yet."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def handle(self, handler: Callable[..., Any]) -> StepDefinition:
        return StepDefinition(self.config, handler)


class MultiTriggerStepBuilder:
    """A step whose handlers come one by one, each for one type of trigger."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self._handlers: dict[str, Callable[..., Any]] = {}

    def on_http(self, handler: Callable[..., Any]) -> MultiTriggerStepBuilder:
        return self._on("http", handler)

    def on_queue(self, handler: Callable[..., Any]) -> MultiTriggerStepBuilder:
        return self._on("queue", handler)

    def on_cron(self, handler: Callable[..., Any]) -> MultiTriggerStepBuilder:
        """`handler(ctx)`."""
        return self._on("cron", handler)

    def on_state(self, handler: Callable[..., Any]) -> MultiTriggerStepBuilder:
        return self._on("state", handler)

    def on_stream(self, handler: Callable[..., Any]) -> MultiTriggerStepBuilder:
        return self._on("stream", handler)

    def handlers(self, handlers: Mapping[str, Callable[..., Any]] | None = None) -> StepDefinition:
        """The whole step. Raises DeclarationError for a handler of no type."""
        for kind, handler in (handlers or {}).items():
            self._on("http" if kind == "api" else kind, handler)
        return StepDefinition(self.config, _dispatcher(dict(self._handlers)))

    def _on(self, kind: str, handler: Callable[..., Any]) -> MultiTriggerStepBuilder:
        if kind not in KINDS or not callable(handler):
            raise DeclarationError(
                f"multi_trigger_step: {kind!r:.40} must be one of {', '.join(KINDS)}, and a function"
            )
        self._handlers[kind] = handler
        return self


def step(config: Any, handler: Callable[..., Any] | None = None) -> Any:
    """A StepDefinition; without a handler a StepBuilder, to `.handle(handler)`."""
    return StepBuilder(config) if handler is None else StepDefinition(config, handler)


def multi_trigger_step(config: Any) -> MultiTriggerStepBuilder:
    return MultiTriggerStepBuilder(config)


def _dispatcher(handlers: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    """One handler of all; plain if they all are."""

    def call(input_value: Any, ctx: Any) -> Any:
        handler = handlers.get(ctx.trigger.type)
        if handler is None:
            raise RuntimeError(f"the step has no handler for {ctx.trigger.type}, only {', '.join(handlers) or 'none'}")
        return handler(ctx) if ctx.trigger.type == "cron" else handler(input_value, ctx)

    async def call_awaited(input_value: Any, ctx: Any) -> Any:
        returned = call(input_value, ctx)
        return await returned if inspect.isawaitable(returned) else returned

    return call_awaited if any(map(is_async, handlers.values())) else call
