"""The OpenAPI 3.1 document: Litestar's, with the steps added as they are declared, in JSON Schema.

Litestar makes schemas from Python types and has no place for raw ones, so steps are written here as
plain dicts. https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, fields
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, YamlRenderPlugin
from litestar.openapi.spec import OpenAPI
from litestar.utils import normalize_path

from tidelog.model.step import Endpoint
from tidelog.model.trigger import HttpTrigger
from tidelog.web.reads.describe import describe_reads

Document = dict[str, Any]

_PARAMETER = re.compile(r"(?<=/)[:*]([^/]+)")
_LITESTARS_PARAMETER = re.compile(r"{(\w+):\w+}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]")  # of components
# Keywords whose values are data, where a "$ref" is no reference.
_DATA_KEYWORDS = frozenset({"const", "default", "enum", "example", "examples"})
# Keywords whose keys are names that an author chose, where "default" is no keyword.
_NAMING_KEYWORDS = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})

ERROR_SCHEMA: Document = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string", "description": "stable; what programs look at"},
                "message": {"type": "string", "description": "for people"},
                "details": {
                    "type": "array",
                    "description": "where the body does not fit",
                    "items": {
                        "type": "object",
                        "required": ["path", "message"],
                        "properties": {
                            "path": {"type": "string", "description": "JSON Pointer into the body"},
                            "message": {"type": "string"},
                        },
                    },
                },
                "id": {"type": "string", "description": "of the log entry that has the cause"},
            },
        }
    },
}


def openapi_config() -> OpenAPIConfig:
    """Litestar's configuration for a server of nothing but steps: /schema/openapi.json, and as YAML.

    No page to try it: Litestar's take their scripts from a CDN, unchecked, and such a script could call every step.
    """
    return OpenAPIConfig(
        title="Tidelog",
        version=version("tidelog"),
        description="The steps of this server. Their streams are subscribed to by WebSocket.",
        render_plugins=[JsonRenderPlugin(), YamlRenderPlugin()],
    )


def with_steps(
    config: OpenAPIConfig | None, endpoints: Iterable[Endpoint], path: str = "/", *, has_reads: bool = False
) -> OpenAPIConfig | None:
    """A copy of the configuration, whatever its class, with steps, and reads, below `path` in its document."""
    endpoints = list(endpoints)
    if config is None or not (endpoints or has_reads):
        return config
    extended = copy(config)
    below = normalize_path(_LITESTARS_PARAMETER.sub(r"{\1}", path)).rstrip("/")
    steps = [(below, endpoints)]
    reads = [below] if has_reads else []
    if isinstance(extended, _WithSteps):
        extended.steps, extended.reads = [*extended.steps, *steps], [*extended.reads, *reads]
    else:
        extended.__class__ = type("StepsConfig", (_WithSteps, type(config)), {"steps": steps, "reads": reads})
    return extended


def describe_steps(*mounted: tuple[str, Iterable[Endpoint]]) -> tuple[Document, Document]:
    """The `paths` and `components.schemas` of the document, for endpoints and the paths that they are below."""
    paths: Document = {}
    schemas: Document = {"Error": ERROR_SCHEMA}
    path_of_shape: dict[str, str] = {}
    operation_ids: set[str] = set()
    for below, (step, http) in ((below, endpoint) for below, endpoints in mounted for endpoint in endpoints):
        declared = below + http.path
        # OpenAPI knows /chat/{a} and /chat/{b} as one path: the first step names its parameters.
        path = path_of_shape.setdefault(_PARAMETER.sub(":", declared), _PARAMETER.sub(r"{\1}", declared))
        operation_id = _unique(step.name, operation_ids)
        operation_ids.add(operation_id)
        paths.setdefault(path, {})[http.method.lower()] = _operation(Endpoint(step, http), path, operation_id, schemas)
    return paths, schemas


def _operation(endpoint: Endpoint, path: str, operation_id: str, schemas: Document) -> Document:
    step, http = endpoint
    name = _NOT_IN_NAMES.sub("_", operation_id)
    operation: Document = {"operationId": operation_id, "summary": step.name}
    if step.description:
        operation["description"] = step.description
    if step.flows:
        operation["tags"] = list(step.flows)
    parameters = re.findall(r"{([^}]+)}", path)
    if parameters:
        operation["parameters"] = [
            {"name": parameter, "in": "path", "required": True, "schema": {"type": "string"}}
            for parameter in parameters
        ]
    if http.body_schema is not None:
        reference = _hoist(http.body_schema.document, f"{name}.body", schemas)
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    operation["responses"] = _responses(http, name, schemas)
    return operation


def _responses(http: HttpTrigger, name: str, schemas: Document) -> Document:
    responses: Document = {}
    for status, document in sorted(http.response_schemas.items()):
        reference = _hoist(document, f"{name}.{status}", schemas)
        responses[str(status)] = {
            "description": _phrase(status),
            "content": {"application/json": {"schema": reference}},
        }
    if not any(200 <= status < 300 for status in http.response_schemas):
        responses["2XX"] = {"description": "Whatever the step answers"}
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    if http.body_schema is not None and 400 not in http.response_schemas:
        responses["400"] = {"description": "The body is not JSON or does not fit", **error}
    responses["default"] = {"description": "Refused or failed; nothing was stored unless the code says so", **error}
    return responses


def _hoist(document: Document | bool, name: str, schemas: Document) -> Document:
    """Put a schema and its $defs under `schemas`, with its references pointing there; returns a reference to it."""
    name = _unique(name, schemas)
    if isinstance(document, bool):
        document = {} if document else {"not": {}}
    targets = {"": f"#/components/schemas/{name}"}
    hoisted: dict[str, Any] = {}
    for keyword in ("$defs", "definitions"):
        for key, definition in (document.get(keyword) or {}).items():
            component = _unique(f"{name}.{_NOT_IN_NAMES.sub('_', key)}", {name, *schemas, *hoisted})
            hoisted[component] = definition
            escaped = key.replace("~", "~0").replace("/", "~1")
            targets[f"/{keyword}/{escaped}"] = f"#/components/schemas/{component}"
    # A base URI of its own, or another dialect's, would make the document's references mean something else.
    root = {key: value for key, value in document.items() if key not in ("$defs", "definitions", "$id", "$schema")}
    schemas[name] = _point(root, targets)
    schemas.update({component: _point(definition, targets) for component, definition in hoisted.items()})
    return {"$ref": targets[""]}


def _point(schema: Any, targets: Mapping[str, str]) -> Any:
    """The schema with its local references pointed at where their targets are now."""
    if isinstance(schema, list):
        return [_point(inner, targets) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    pointed: Document = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str):
            pointed[key] = _target(value, targets)
        elif key in _DATA_KEYWORDS:
            pointed[key] = value
        elif key in _NAMING_KEYWORDS and isinstance(value, dict):
            pointed[key] = {name: _point(inner, targets) for name, inner in value.items()}
        else:
            pointed[key] = _point(value, targets)
    return pointed


def _target(reference: str, targets: Mapping[str, str]) -> str:
    pointer = reference.removeprefix("#")
    if pointer == reference or (pointer and not pointer.startswith("/")):
        return reference  # not into this document, or to an anchor
    parts = pointer.split("/")
    definition = "/".join(parts[:3])
    if definition in targets:
        return "/".join([targets[definition], *parts[3:]])
    return targets[""] + pointer


def _unique(name: str, taken: Container[str]) -> str:
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    return unique


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"


class _WithSteps(OpenAPIConfig):
    steps: list[tuple[str, list[Endpoint]]]  # by the path that they are below
    reads: list[str]  # paths that they are below

    def to_openapi_schema(self) -> OpenAPI:
        base = super().to_openapi_schema()
        document = _StepsDocument(**{each.name: getattr(base, each.name) for each in fields(base)})
        paths, schemas = describe_steps(*self.steps)
        for below in self.reads:
            paths |= describe_reads(below)
        document.add_steps(paths, schemas)
        return document


@dataclass
class _StepsDocument(OpenAPI):
    """Litestar's document. What it fills in itself stays; the steps are laid over the rendered form."""

    def add_steps(self, paths: Document, schemas: Document) -> None:
        self._step_paths = paths
        self._step_schemas = schemas

    def to_schema(self) -> dict[str, Any]:
        document = super().to_schema()
        for path, operations in self._step_paths.items():
            document.setdefault("paths", {}).setdefault(path, {}).update(operations)
        document.setdefault("components", {}).setdefault("schemas", {}).update(self._step_schemas)
        return document
