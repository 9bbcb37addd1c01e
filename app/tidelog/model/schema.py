"""What authors declare as a schema, compiled: JSON Schema as a dict, or a pydantic class with its own validators.

A dict is JSON Schema and no more: `format` is checked, `default` is for readers. A class has validators and defaults
that JSON Schema can't say. Of a body it makes what the handler gets; of an item it checks, beside the JSON Schema that
the class is written as, what is stored, and changes nothing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import unquote

import jsonschema_rs
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_json

from tidelog.errors import DeclarationError, Violation
from tidelog.json_text import is_within
from tidelog.model.formats import FORMATS

VIOLATIONS_MAX = 20  # what one answer lists; a body can be wrong in a million places
# The validator finds all of them before it tells the first (3.7 s for 300,000), each with a copy of what is wrong.
LISTED_VALUES_MAX = 2000
LISTED_LENGTH_MAX = 16_384
MESSAGE_LENGTH_MAX = 300  # it quotes the value, which may be of any length
OPTIONS_LENGTH_MAX = 180  # what an enum takes, as far as it is listed in one message,
VALUE_LENGTH_MAX = 70  # and the value, beside it


@dataclass(frozen=True, slots=True)
class Schema:
    """A JSON Schema (draft 2020-12 unless it says otherwise), its compiled validator, and the class that it is of."""

    document: dict[str, Any] | bool
    validator: Any = field(repr=False)
    type: TypeAdapter[Any] | None = field(default=None, repr=False)

    def fits(self, value: Any) -> bool:
        """Whether plain JSON fits the JSON Schema, and passes the class's validators."""
        return bool(self.validator.is_valid(value)) and (self.type is None or not self._made(value)[1])

    def read(self, value: Any) -> tuple[Any, list[Violation]]:
        """A value that comes in, as it is to be gone on with, and what is wrong with it.

        Of a class it is what the class makes of it: validated, with defaults, and as plain JSON again.
        """
        if self.type is not None:
            return self._made(value)
        return value, [] if self.validator.is_valid(value) else self.violations(value)

    def violations(self, value: Any) -> list[Violation]:
        """Where and why `value` does not fit: VIOLATIONS_MAX places, of a large one the first; [] if it fits."""
        return [violation for violation, _ in self.find(value)]

    def find(self, value: Any) -> list[tuple[Violation, Any]]:
        """The violations, each with the part of `value` that it is about."""
        errors = self.validator.iter_errors(value) if _is_small(value) else self._first_error(value)
        found = [
            (Violation(_pointer(error.instance_path), _clip(_said(error))), _part(value, error.instance_path))
            for error in itertools.islice(errors, VIOLATIONS_MAX)
        ]
        # Which part a class's violation is about is not known: paths through a union have its members' names.
        return found or [(violation, value) for violation in self._made(value)[1]]

    def _made(self, value: Any) -> tuple[Any, list[Violation]]:
        if self.type is None:
            return value, []
        try:
            # As JSON: a strict model takes a text for a date there, and only there.
            made = self.type.validate_json(to_json(value))
        except ValidationError as error:
            return value, _violations_of(error)
        return self.type.dump_python(made, mode="json", by_alias=True), []

    def _first_error(self, value: Any) -> list[jsonschema_rs.ValidationError]:
        try:
            self.validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            return [error]
        return []


def schema_of(declared: Any) -> dict[str, Any] | bool:
    """The JSON Schema that an author declared: a schema, a pydantic model class, or a type pydantic knows."""
    if isinstance(declared, dict | bool):
        return declared
    try:
        if isinstance(declared, type) and issubclass(declared, BaseModel):
            return declared.model_json_schema()
        return TypeAdapter(declared).json_schema()
    except Exception as error:  # pydantic raises several kinds for what it can't describe
        why = str(error).partition("\n")[0]
        raise DeclarationError(
            "a schema must be JSON Schema (a dict) or a pydantic model class that can be written as one, "
            f"not {declared!r:.80} ({why})"
        ) from error


def compile_declared(declared: Any) -> Schema:
    """What an author declared, with its validators if it is a class; raises DeclarationError."""
    document = schema_of(declared)
    schema = compile_schema(document)
    if isinstance(declared, dict | bool):
        return schema
    return Schema(document, schema.validator, TypeAdapter(declared))


def compile_schema(document: dict[str, Any] | bool) -> Schema:
    """Compile `document`; raises DeclarationError if it is not a JSON Schema or refers outside itself."""
    try:
        validator = jsonschema_rs.validator_for(
            document, validate_formats=True, formats=FORMATS, retriever=_no_remote_schemas
        )
    except jsonschema_rs.ValidationError as error:
        where = _pointer(error.instance_path) or "the whole"
        raise DeclarationError(f"not a valid JSON Schema: {where}: {error.message}") from error
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise DeclarationError(f"not a valid JSON Schema: {error}") from error
    return Schema(document, validator)


def takes_objects(schema: Schema) -> bool:
    """Whether some JSON object may fit, as far as type, const, enum, $ref and what combines schemas say."""
    return _takes_objects(schema.document, schema.document, frozenset())


def _takes_objects(part: Any, whole: Any, seen: frozenset[str]) -> bool:
    if not isinstance(part, dict):
        return part is not False
    kinds = part.get("type", "object")
    if "object" not in ([kinds] if isinstance(kinds, str) else kinds):
        return False
    if "const" in part and not isinstance(part["const"], dict):
        return False
    if "enum" in part and not any(isinstance(one, dict) for one in part["enum"]):
        return False
    reference = part.get("$ref")
    if isinstance(reference, str) and reference not in seen:
        target = _pointed_at(reference, whole)
        if target is not None and not _takes_objects(target, whole, seen | {reference}):
            return False
    if not all(_takes_objects(one, whole, seen) for one in part.get("allOf", ())):
        return False
    return all(
        any(_takes_objects(one, whole, seen) for one in part[word]) for word in ("anyOf", "oneOf") if word in part
    )


def _pointed_at(reference: str, whole: Any) -> Any:
    """What a reference within the document means, if it is a JSON Pointer; else None."""
    if not reference.startswith("#"):
        return None
    part = whole
    for step in unquote(reference[1:]).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(part, dict) or name not in part:
            return None
        part = part[name]
    return part


def _violations_of(error: ValidationError) -> list[Violation]:
    if error.error_count() > LISTED_VALUES_MAX:  # listing them takes seconds
        return [Violation("", f"{error.error_count()} places do not fit")]
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [Violation(_pointer(one["loc"]), _clip(one["msg"])) for one in found[:VIOLATIONS_MAX]]


def _is_small(value: Any) -> bool:
    """Whether all that is wrong with `value` can be found without a stall."""
    values = length = 0

    def is_too_much(one: Any) -> bool:
        nonlocal values, length
        values += 1
        if isinstance(one, str):
            length += len(one)
        return values > LISTED_VALUES_MAX or length > LISTED_LENGTH_MAX

    return not is_within(value, is_too_much)


def _part(value: Any, path: Iterable[str | int]) -> Any:
    for step in path:
        value = value[str(step) if isinstance(value, dict) else step]  # of a name "0" the validator says 0
    return value


def _said(error: jsonschema_rs.ValidationError) -> str:
    """The validator's message; of an enum one that names more than two of its values."""
    kind = getattr(error, "kind", None)  # which older versions don't have
    of_name = getattr(kind, "error", None)  # of propertyNames
    if isinstance(of_name, jsonschema_rs.ValidationError):
        return _said(of_name)
    taken = getattr(kind, "options", None)
    if taken is None:
        return str(error.message)
    value = _clip(_json(error.instance), VALUE_LENGTH_MAX)
    options = [_clip(_json(option), OPTIONS_LENGTH_MAX - len(" ... , ")) for option in taken]
    lengths = itertools.accumulate(len(option) + len(", ") for option in options)
    shown = options[: sum(length <= OPTIONS_LENGTH_MAX for length in lengths)]
    if len(shown) < len(options):
        shown.append(f"or {len(options) - len(shown)} others")
    return f"{value} is not one of {', '.join(shown)}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _clip(text: str, length_max: int = MESSAGE_LENGTH_MAX) -> str:
    """A message's beginning and end: what is wrong stands behind the value that is quoted."""
    half = length_max // 2
    return text if len(text) <= length_max else f"{text[:half]} ... {text[-half:]}"


def _no_remote_schemas(uri: str) -> NoReturn:
    raise ValueError(f"$ref to {uri}: a schema must be whole in itself")


def _pointer(path: Iterable[str | int]) -> str:
    return _clip("".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path))
