"""Calling an author's handler: `async` in the event loop, plain in a thread, with or without `context`."""

from __future__ import annotations

import contextvars
import inspect
from collections.abc import Callable, Iterable
from functools import partial
from types import FrameType
from typing import Any

from tidelog.errors import AnswerInvalidError
from tidelog.model.reaction import takes_two
from tidelog.model.rule import is_async
from tidelog.model.step import Step
from tidelog.motia.running import running_context
from tidelog.runtime.threads import HandlerThreads
from tidelog.runtime.watch import HandlerWatch


class Handler:
    """The handler of one step."""

    def __init__(self, step: Step, threads: HandlerThreads) -> None:
        self.step = step
        self.is_plain = not is_async(step.handler)
        self._takes_both = takes_two(step.handler)
        self._threads = threads

    async def call(self, given: Any, context: Any, watch: HandlerWatch) -> Any:
        """What it returns."""
        running_context.set(context)  # of this task: it is the run's own, or the next run sets it anew
        arguments = self._arguments(given, context)
        if self.step.middleware:
            watch.handler = self._call_through(0, given, context)
            return await watch.handler
        if not self.is_plain:
            watch.handler = self.step.handler(*arguments)
            return await watch.handler
        in_context = contextvars.copy_context().run
        returned = await self._threads.run(f"step {self.step.name}", partial(in_context, self._call_plain, arguments))
        if inspect.iscoroutine(returned):
            returned.close()
            raise AnswerInvalidError("a plain handler returned a coroutine: write `async def handler(req, context)`")
        return returned

    async def _call_through(self, number: int, given: Any, context: Any) -> Any:
        """What the middleware answers from this one on, of which the last calls the handler. Each goes on once."""
        if number == len(self.step.middleware):
            return await self.step.handler(*self._arguments(given, context))
        went_on = False

        async def next_fn() -> Any:
            nonlocal went_on
            if went_on:
                raise RuntimeError("a middleware called next_fn twice: the step would run twice in one transaction")
            went_on = True
            return await self._call_through(number + 1, given, context)

        return await self.step.middleware[number](given, context, next_fn)

    def _arguments(self, given: Any, context: Any) -> tuple[Any, ...]:
        if self._takes_both:
            return given, context
        return (context if self.step.context_first else given,)

    def _call_plain(self, arguments: tuple[Any, ...]) -> Any:
        try:
            return self.step.handler(*arguments)
        except StopIteration as error:  # Python 3.11 can't hand it on, and the request would wait forever
            raise RuntimeError("the handler let a StopIteration out: next() without a default?") from error


def step_in(steps: Iterable[Step]) -> Callable[[FrameType], str | None]:
    """Names the step that a frame belongs to: the handler's call, or, in a task of its own, any code of its file."""
    by_file = {str(step.file): step.name for step in steps if step.file is not None}

    def name(frame: FrameType) -> str | None:
        if frame.f_code is Handler.call.__code__:
            handler: Handler = frame.f_locals["self"]
            return handler.step.name
        return by_file.get(frame.f_code.co_filename)

    return name
