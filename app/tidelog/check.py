"""What `tidelog check` runs: reads the authors' files as a server would, and says what it finds."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from tidelog.logs.last_words import TOLD, last_words
from tidelog.model.reaction import CronTrigger, EventTrigger, Reaction, StateTrigger, StreamTrigger
from tidelog.model.step import Step, endpoints_of
from tidelog.runtime.discovery import Discovered, discover
from tidelog.runtime.emitting import topics_of
from tidelog.settings import Settings


def main() -> None:
    """List streams and steps; ends the process with status 1 if a file, or all of them together, can't be used."""
    try:
        steps_dir = Settings().steps_dir
        discovered = discover(steps_dir)
    except TOLD as error:
        sys.exit(last_words(error))
    lines = list(lines_of(discovered)) or [
        f"nothing is declared in {steps_dir}: streams are in files *_stream.py there, steps in *_step.py"
    ]
    for line in lines:
        print(line)  # noqa: T201 - this is a command's output
    if discovered.broken:
        sys.exit(1)


def lines_of(discovered: Discovered) -> Iterator[str]:
    """What was found, a line each."""
    for stream in discovered.streams.values():
        yield f"stream  {stream.name}    streams.{stream.table}"
    for step, http in endpoints_of(discovered.steps):
        yield f"step    {step.name}    {http.method} {http.path}"
    for step in discovered.steps:
        if not endpoints_of([step]):
            yield f"step    {step.name}    {_said(step.reaction, discovered)}"
    yield from _warnings(discovered.steps)
    for skipped in discovered.skipped:
        yield f"left out    {skipped.path}: {skipped.cause}"
    for broken in discovered.broken:
        yield f"broken  {broken.path}: {broken.cause}"


def _warnings(steps: Sequence[Step]) -> Iterator[str]:
    """Of topics to which no step subscribes: no error, as in Motia, where such events are for whoever comes later.

    A server doesn't say so: what is left out there on purpose would be told at each start.
    """
    subscribed = topics_of(steps)
    known = ", ".join(subscribed) or "no other"
    for topic in dict.fromkeys(topic for step in steps for topic in step.emits if topic not in subscribed):
        emitting = ", ".join(step.name for step in steps if topic in step.emits)
        yield (
            f"warning    topic {topic!r:.80}, emitted by {emitting}: no step subscribes to it, so its events are "
            f"dropped; steps subscribe to {known}"
        )


def _said(reaction: Reaction | None, discovered: Discovered) -> str:
    """What makes a step run that is for no request."""
    if reaction is None:
        return "noop"
    if isinstance(reaction, EventTrigger):
        return f"event {', '.join(reaction.topics)}"
    if isinstance(reaction, CronTrigger):
        return f"cron {reaction.expression}"
    if isinstance(reaction, StateTrigger):
        return "changes of the state" + _place(reaction)
    is_there = reaction.stream in discovered.streams
    missing = "" if is_there else ", which no file declares: it never runs"
    return f"changes of stream {reaction.stream}{_place(reaction)}{missing}"


def _place(reaction: StreamTrigger | StateTrigger) -> str:
    """Which of the changes, if not all."""
    item_id = reaction.item_id if isinstance(reaction, StreamTrigger) else reaction.key
    group = "" if reaction.group_id is None else f", group {reaction.group_id}"
    return group + ("" if item_id is None else f", item {item_id}")
