"""What `tidelog check` runs: reads the authors' files as a server would, and says what it finds."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tidelog.logs.last_words import TOLD, last_words
from tidelog.model.reaction import CronTrigger, EventTrigger, Reaction, StateTrigger, StreamTrigger
from tidelog.model.step import endpoints_of
from tidelog.runtime.discovery import Discovered, discover
from tidelog.settings import Settings


def main() -> None:
    """List streams and steps; ends the process with status 1 if a file, or all of them together, can't be used."""
    try:
        discovered = discover(Settings().steps_dir)
    except TOLD as error:
        sys.exit(last_words(error))
    for line in lines_of(discovered):
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
    for skipped in discovered.skipped:
        yield f"left out    {skipped.path}: {skipped.cause}"
    for broken in discovered.broken:
        yield f"broken  {broken.path}: {broken.cause}"


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
