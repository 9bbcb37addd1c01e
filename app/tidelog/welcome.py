"""What `scripts/serve` says once it answers: things to try, which are true of the folder that it serves."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tidelog.model.step import Endpoint, endpoints_of
from tidelog.model.trigger import HttpTrigger
from tidelog.runtime.discovery import Discovered

BODY_LENGTH_MAX = 200  # a longer one is no longer something to try; it is in the OpenAPI document
PARAMETER = "demo"  # the value of a path's parameters
# Values to try for what a body requires, by JSON Schema's name of their type.
_SAMPLES: dict[str, Any] = {"string": "hello", "integer": 1, "number": 1, "boolean": True, "array": [], "object": {}}
_INDENT = " " * 11

FRAME = """
  Tidelog serves {base}

{tries}
    steps  {steps}      OpenAPI  {base}/schema/openapi.json
    pages  {pages}; TIDELOG_CORS_ORIGINS allows others
    stop   Ctrl-C
"""

EXAMPLE_FOLDER = Path(__file__).parents[1] / "steps" / "chat"  # of a checkout; an installed library has none
EXAMPLE = """\
    open   {base}/   in two windows, and type
    post   curl {base}/chat/general/messages -H 'content-type: application/json' \\
                -d '{{"author": "ada", "text": "hello"}}'
    sql    {psql}
             update streams.chat_message set data = data || '{{"text": "hello, SQL"}}' where data ->> 'author' = 'ada';
             -- the history has it a moment later, with the commit's number:
             select position, op, data ->> 'text' as text from streams.chat_message_history order by position, seq;"""
NOTHING = """\
    There is nothing to serve in {steps} yet: make a *_stream.py and a *_step.py there, and start again.
    "A stream and a step" in README.md has two to begin with."""
BROKEN = """\
    {count} of the files in {steps} could not be used: the log names each, with the line to look at."""
HISTORY = """\
select position, at, op, group_id, id, data from streams.{table}_history
             order by position desc, seq desc limit 10;"""


def welcome(base: str, psql: str, steps_dir: Path, discovered: Discovered, pages: str) -> str:
    """`base` is the server's URL, `psql` a command that opens its database, `pages` says whose web pages may use it."""
    values = {"base": base, "psql": psql, "steps": steps_dir, "pages": pages}
    if _is_example(discovered):
        tries = [EXAMPLE.format(**values)]
    else:
        tries = [*_tries_of_steps(base, endpoints_of(discovered.steps)), *_tries_of_streams(psql, discovered)]
    if discovered.broken:
        tries.append(BROKEN.format(count=len(discovered.broken), **values))
    elif not tries:
        tries.append(NOTHING.format(**values))
    return FRAME.format(tries="\n".join(tries), **values)


def _is_example(discovered: Discovered) -> bool:
    files = {step.file.name for step in discovered.steps if step.file and step.file.parent == EXAMPLE_FOLDER}
    return {"chat_page_step.py", "post_message_step.py"} <= files and "chatMessage" in discovered.streams


def _tries_of_steps(base: str, endpoints: Sequence[Endpoint]) -> list[str]:
    """The first page or other answer to a GET, and the first POST."""
    found = []
    for method, what in (("GET", "get"), ("POST", "post")):
        of_method = [endpoint for endpoint in endpoints if endpoint.http.method == method]
        commands = [command for _, http in of_method if (command := _command(base, http)) is not None]
        if commands:
            found.append(f"    {what:<7}{commands[0]}")
        elif of_method:
            step, http = of_method[0]
            found.append(f"    {what:<7}{base}{http.path}: the OpenAPI document says what {step.name} takes")
    return found


def _command(base: str, http: HttpTrigger) -> str | None:
    """A curl that the step's declaration allows; None if none is found."""
    parts = [PARAMETER if part.startswith(":") else part for part in http.path.split("/")]
    command = f"curl {shlex.quote(base + '/'.join(parts))}"
    if http.method == "GET":
        return command
    if http.body_schema is None:
        return f"{command} -X {http.method}"
    body = _sample(http.body_schema.document)
    text = json.dumps(body)
    if len(text) > BODY_LENGTH_MAX or not http.body_schema.fits(body):
        return None
    return f"{command} -H 'content-type: application/json' \\\n{_INDENT}     -d {shlex.quote(text)}"


def _sample(schema: Any) -> Any:
    """A value that may fit the schema: what it requires, and nothing that is deeper."""
    if not isinstance(schema, dict):
        return {}
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if isinstance(schema.get(key), list) and schema[key]:
            return schema[key][0]
    properties, required = schema.get("properties"), schema.get("required")
    if isinstance(properties, dict) and isinstance(required, list):
        return {name: _sample(properties.get(name)) for name in required if isinstance(name, str)}
    kind = schema.get("type")
    return _SAMPLES.get(kind, {}) if isinstance(kind, str) else {}


def _tries_of_streams(psql: str, discovered: Discovered) -> list[str]:
    if not discovered.streams:
        return []
    stream = next(iter(discovered.streams.values()))
    return [f"    sql    {psql}\n{_INDENT}  {HISTORY.format(table=stream.table)}"]
