"""Finds the authors' *_stream.py, *_step.py and stream_auth.py, and reads what they declare. Knows nothing of HTTP."""

import ast
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from tidelog.errors import DeclarationError
from tidelog.model.reaction import takes_two
from tidelog.model.reserved import is_reserved
from tidelog.model.rule import Function
from tidelog.model.step import TYPES, Endpoint, Step, endpoints_of, reacting
from tidelog.model.stream import Stream
from tidelog.motia.builders import StepDefinition
from tidelog.motia.configs import StreamConfig, given_in
from tidelog.runtime.environment import read_environment
from tidelog.runtime.loading import Project, cause_of, line_of
from tidelog.runtime.motia_steps import definition_of, steps_of
from tidelog.runtime.screening import check_context_use

STREAM_SUFFIX = "_stream.py"
STEP_SUFFIX = "_step.py"
AUTHENTICATION_FILE = "stream_auth.py"

# Motia's projects have files in both: the second is looked through if it is there beside the first.
TWINS = {"steps": "src", "src": "steps"}

_FOLDERS_IGNORED = frozenset({"__pycache__", "node_modules"})

logger = logging.getLogger("tidelog")

Declared = TypeVar("Declared", Stream, Step)


@dataclass(frozen=True, slots=True)
class BrokenFile:
    """A file, or folder, that can't be used, and why."""

    path: Path
    cause: str


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that may be in order, but that Tidelog does not serve, for its name."""

    path: Path
    cause: str


@dataclass(frozen=True, slots=True)
class Discovered:
    """What the authors' files declare."""

    streams: dict[str, Stream]  # by declared name
    steps: tuple[Step, ...]
    broken: tuple[BrokenFile, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()
    authenticate: Function | None = None  # of stream_auth.py

    def log_left_out(self) -> None:
        """The others are served without these: a process says so when it begins."""
        for broken in self.broken:
            logger.error("left out %s: %s", broken.path, broken.cause)
        for skipped in self.skipped:
            logger.warning("left out %s: %s", skipped.path, skipped.cause)


def discover(steps_dir: Path) -> Discovered:
    """Run every stream and step file under `steps_dir`, in the order of their paths, and read its `config`.

    If it is named `steps`, a folder `src` beside it belongs to it, and the other way round. A `.env` beside it is read
    first, for them.
    A file that fails is in `broken`; one with the wrong name is in `skipped`; the others are not affected.
    Files that contradict each other, a missing `steps_dir`, or a stream_auth.py that fails raise DeclarationError:
    without it the others would be open. Each call runs the files anew.
    """
    steps_dir = steps_dir.resolve()
    if not steps_dir.is_dir():
        raise DeclarationError(
            f"there is no folder {steps_dir}: name the one that holds your *_stream.py and *_step.py files, by "
            "--steps-dir, TIDELOG_STEPS_DIR, or the steps_dir of a TidelogConfig"
        )
    read_environment(steps_dir.parent)
    reading = _Reading(steps_dir)
    streams = reading.read_all(STREAM_SUFFIX, lambda module, file: (_read_stream(module, file),))
    steps = reading.read_all(STEP_SUFFIX, lambda module, file: _read_steps(module, file, steps_dir.parent))
    reading.note_misnamed()
    _refuse_streams_of_one_table(streams)
    _refuse_steps_of_one_address(steps)
    _refuse_steps_of_one_name(steps)
    return Discovered(
        streams={stream.name: stream for stream, _ in streams},
        steps=tuple(step for step, _ in steps),
        broken=tuple(reading.broken),
        skipped=tuple(reading.skipped),
        authenticate=reading.read_authentication(),
    )


class _Reading:
    """One run over the files of a folder, and what became of those that declare nothing."""

    def __init__(self, steps_dir: Path) -> None:
        self.broken: list[BrokenFile] = []
        self.skipped: list[SkippedFile] = []
        self._project = Project(steps_dir.parent)
        twin = steps_dir.parent / TWINS.get(steps_dir.name, "")
        folders = [steps_dir, twin] if twin != steps_dir.parent and twin.is_dir() else [steps_dir]
        self._files = sorted(file for folder in folders for file in self._walk(folder))

    def read_all(
        self, suffix: str, read: Callable[[ModuleType, Path], Sequence[Declared]]
    ) -> list[tuple[Declared, Path]]:
        """What `read` makes of each file whose name ends with `suffix`."""
        declared: list[tuple[Declared, Path]] = []
        for file in self._files:
            if file.name.endswith(suffix):
                declared += [(found, file) for found in self._read(file, read)]
        return declared

    def note_misnamed(self) -> None:
        """Files that look like streams or steps, and whose names say otherwise. They are looked at, and not run."""
        for file in self._files:
            if file.suffix == ".py" and not file.name.endswith((STREAM_SUFFIX, STEP_SUFFIX, AUTHENTICATION_FILE)):
                likeness = _likeness(file)
                if likeness is not None:
                    what, suffix = likeness
                    cause = f"it looks like a {what}, and is none by its name, which must end with {suffix}"
                    self.skipped.append(SkippedFile(file, cause))

    def read_authentication(self) -> Function | None:
        """The function of the one file that says who sends requests. Raises DeclarationError if it can't be used."""
        files = [file for file in self._files if file.name == AUTHENTICATION_FILE]
        if len(files) > 1:
            raise DeclarationError(f"{files[0]} and {files[1]} both say who sends requests: leave one out")
        if not files:
            return None
        (file,) = files
        try:
            found = getattr(self._project.load(file), "authenticate", None)
            return Function.of("authenticate", found, ("request",))
        except KeyboardInterrupt:
            raise
        except DeclarationError as error:
            raise DeclarationError(f"{file}: it needs `async def authenticate(request)`: {error}") from None
        except BaseException as error:
            raise DeclarationError(f"{file}: {cause_of(error, file, self._project.root)}") from error

    def _read(self, file: Path, read: Callable[[ModuleType, Path], Sequence[Declared]]) -> Sequence[Declared]:
        try:
            module = self._project.load(file)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit and its like, too: one file must not end the others
            self.broken.append(BrokenFile(file, cause_of(error, file, self._project.root)))
            return ()
        try:
            return read(module, file)
        except DeclarationError as error:
            line = None if error.line else line_of(error.about, file) or line_of("config", file)
            self.broken.append(BrokenFile(file, f"line {line}: {error}" if line else str(error)))
        except Exception as error:  # of a class that the author wrote: a handler's, a model's
            self.broken.append(BrokenFile(file, cause_of(error, file, self._project.root)))
        return ()

    def _walk(self, folder: Path) -> Iterable[Path]:
        def unreadable(error: OSError) -> None:
            self.broken.append(BrokenFile(Path(str(error.filename)), f"can't be read: {error.strerror}"))

        for path, folders, files in os.walk(folder, onerror=unreadable):
            folders[:] = [name for name in folders if not _is_ignored(name)]
            yield from (Path(path, name) for name in files if not _is_ignored(name))


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name in _FOLDERS_IGNORED


def _likeness(file: Path) -> tuple[str, str] | None:
    """What a file would be, by its `config`, and how its name would end then; None if it is something else."""
    try:
        text = file.read_bytes()
        body = ast.parse(text).body if b"config" in text else []
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return None  # whoever imports it is told
    for node in body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and target.id == "config" and isinstance(value, ast.Dict):
            keys = {key.value for key in value.keys if isinstance(key, ast.Constant)}
            if (
                "name" in keys
                and keys & {"type", "triggers"}
                and any(getattr(other, "name", None) == "handler" for other in body)
            ):
                return "step", STEP_SUFFIX
            if "name" in keys and keys & {"schema", "baseConfig"}:
                return "stream", STREAM_SUFFIX
    return None


def _read_stream(module: ModuleType, file: Path) -> Stream:
    config = getattr(module, "config", None)
    if isinstance(config, StreamConfig):
        return Stream.from_config(given_in(config), file)
    return Stream.from_config(_config_of(module), file)


def _read_steps(module: ModuleType, file: Path, root: Path) -> tuple[Step, ...]:
    """One; of a file as Motia 1.0 has them, one for each of its triggers."""
    definition = definition_of(module)
    if definition is not None:
        return _read_triggers(definition, file, root)
    config = _config_of(module)
    kind = config.get("type")
    handler = getattr(module, "handler", None)
    if kind not in TYPES:
        raise DeclarationError(f'config["type"] must be {", ".join(TYPES[:-1])} or {TYPES[-1]}, not {kind!r:.80}')
    if kind == "noop":
        return (Step.of_noop(config, file),)
    step = Step.from_config(config, handler, file) if kind == "api" else Step.of_reaction(config, handler, file)
    _refuse_reserved(step)
    place = 0 if step.context_first and not takes_two(step.handler) else 1
    check_context_use(step.handler, file, root, place)
    return (step,)


def _read_triggers(definition: StepDefinition, file: Path, root: Path) -> tuple[Step, ...]:
    steps = steps_of(definition, file)
    for step in steps:
        _refuse_reserved(step)
    place = 0 if all(step.context_first for step in steps) and not takes_two(definition.handler) else 1
    check_context_use(definition.handler, file, root, place, missing={})
    return steps


def _refuse_reserved(step: Step) -> None:
    for endpoint in endpoints_of([step]):
        if is_reserved(endpoint.http):
            raise DeclarationError(f"path {endpoint.http.path!r} is a route of the server's own: choose another")


def _config_of(module: ModuleType) -> dict[str, Any]:
    config = getattr(module, "config", None)
    if not isinstance(config, dict):
        said = f", not {config!r:.80}" if config is not None else ""
        raise DeclarationError(f"the file must assign a dict to `config` at its top level{said}")
    return config


def _refuse_streams_of_one_table(streams: list[tuple[Stream, Path]]) -> None:
    seen: dict[str, tuple[Stream, Path]] = {}
    for stream, file in streams:
        other, other_file = seen.setdefault(stream.table, (stream, file))
        if other is not stream:
            raise DeclarationError(
                f"stream {other.name!r} in {other_file} and stream {stream.name!r} in {file} would both be "
                f"the table streams.{stream.table}: rename one"
            )


def _refuse_steps_of_one_address(steps: list[tuple[Step, Path]]) -> None:
    seen: dict[tuple[str, tuple[str, ...]], tuple[Endpoint, Path]] = {}
    for step, file in steps:
        for endpoint in endpoints_of([step]):
            http = endpoint.http
            other, other_file = seen.setdefault((http.method, http.shape), (endpoint, file))
            if other is not endpoint:
                raise DeclarationError(
                    f"step {other.step.name!r} in {other_file} ({other.http.method} {other.http.path}) and step "
                    f"{step.name!r} in {file} ({http.method} {http.path}) would get the same requests: "
                    "change one's method or path"
                )


def _refuse_steps_of_one_name(steps: list[tuple[Step, Path]]) -> None:
    """Jobs are for a step by its name."""
    files = {id(step): file for step, file in steps}
    seen: dict[str, Step] = {}
    for step in reacting(step for step, _ in steps):
        other = seen.setdefault(step.name, step)
        if other is not step:
            raise DeclarationError(
                f"{files[id(other)]} and {files[id(step)]} both have the name {step.name!r}, by which their jobs are "
                "told apart: rename one"
            )
