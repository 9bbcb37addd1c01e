"""JSON Schema: from a dict or a pydantic model to a compiled validator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn

import jsonschema_rs
from pydantic import BaseModel, TypeAdapter

from app.errors import DeclarationError, Violation

VIOLATIONS_MAX = 20  # what one answer lists; a body can be wrong in a million places


@dataclass(frozen=True, slots=True)
class Schema:
    """A JSON Schema (draft 2020-12 unless it says otherwise) with its compiled validator."""

    document: dict[str, Any] | bool
    validator: Any = field(repr=False)

    def fits(self, value: Any) -> bool:
        return bool(self.validator.is_valid(value))

    def violations(self, value: Any) -> list[Violation]:
        """Where and why `value` doesn't fit, at most VIOLATIONS_MAX places; empty if it fits."""
        found: list[Violation] = []
        for error in self.validator.iter_errors(value):
            found.append(Violation(_pointer(error.instance_path), error.message))
            if len(found) == VIOLATIONS_MAX:
                break
        return found


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


def compile_schema(document: dict[str, Any] | bool) -> Schema:
    """Compile `document`; raises DeclarationError if it is not a JSON Schema or refers outside itself."""
    try:
        validator = jsonschema_rs.validator_for(document, retriever=_no_remote_schemas)
    except jsonschema_rs.ValidationError as error:
        where = _pointer(error.instance_path) or "the whole"
        raise DeclarationError(f"not a valid JSON Schema: {where}: {error.message}") from error
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise DeclarationError(f"not a valid JSON Schema: {error}") from error
    return Schema(document, validator)


def _no_remote_schemas(uri: str) -> NoReturn:
    raise ValueError(f"$ref to {uri}: a schema must be whole in itself")


def _pointer(path: list[str | int]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
