"""JSON Schemas of steps in one OpenAPI document."""

from __future__ import annotations

import json
from typing import Any

from tidelog.model.schema import compile_schema
from tidelog.model.step import Endpoint, Step
from tidelog.model.trigger import HttpTrigger
from tidelog.web.openapi import describe_steps


async def handler(req: dict[str, Any]) -> Any:
    return {"status": 200}


def endpoint(name: str, schema: Any, path: str | None = None) -> Endpoint:
    http = HttpTrigger(method="POST", path=path or f"/{name}", body_schema=compile_schema(schema))
    return Endpoint(Step(name=name, handler=handler, triggers=(http,)), http)


def test_definitions_of_two_steps_do_not_mix() -> None:
    """Each has its own `Author`, and its references lead to its own."""
    schema = {"$ref": "#/$defs/Author", "$defs": {"Author": {"type": "string"}}}
    other = {"$ref": "#/$defs/Author", "$defs": {"Author": {"type": "integer"}}}
    _, schemas = describe_steps(("", [endpoint("a", schema), endpoint("b", other)]))
    assert schemas["a.body"] == {"$ref": "#/components/schemas/a.body.Author"}
    assert schemas["a.body.Author"] == {"type": "string"}
    assert schemas["b.body.Author"] == {"type": "integer"}


def test_references_of_all_kinds_are_pointed_anew() -> None:
    """To the root, into a property, into a definition, between definitions, with escaped names."""
    schema = {
        "properties": {
            "self": {"$ref": "#"},
            "again": {"$ref": "#/properties/name"},
            "name": {"type": "string"},
            "deep": {"$ref": "#/$defs/Node/properties/leaf"},
            "odd": {"$ref": "#/$defs/a~1b"},
            "$ref": {"type": "string"},
            "default": {"$ref": "#/$defs/Node"},
        },
        "default": {"$ref": "#/$defs/Node"},
        "$defs": {
            "Node": {"properties": {"next": {"$ref": "#/$defs/Node"}, "leaf": {"type": "null"}}},
            "a/b": {"const": {"$ref": "#"}},
        },
    }
    _, schemas = describe_steps(("", [endpoint("tree", schema)]))
    properties = schemas["tree.body"]["properties"]
    at = "#/components/schemas/tree.body"
    assert properties["self"] == {"$ref": at}
    assert properties["again"] == {"$ref": f"{at}/properties/name"}
    assert properties["deep"] == {"$ref": f"{at}.Node/properties/leaf"}
    assert properties["odd"] == {"$ref": f"{at}.a_b"}
    assert properties["$ref"] == {"type": "string"}
    assert properties["default"] == {"$ref": f"{at}.Node"}
    assert schemas["tree.body"]["default"] == {"$ref": "#/$defs/Node"}
    assert schemas["tree.body.Node"]["properties"]["next"] == {"$ref": f"{at}.Node"}
    assert schemas["tree.body.a_b"] == {"const": {"$ref": "#"}}


def test_operation_ids_and_component_names_are_unique_and_legal() -> None:
    """Also when two steps have one name, or a name that components may not have."""
    endpoints = [
        endpoint("Post it!", {"type": "object"}, path="/a"),
        endpoint("Post it!", {"type": "array"}, path="/b"),
    ]
    paths, schemas = describe_steps(("", endpoints))
    assert [paths[path]["post"]["operationId"] for path in ("/a", "/b")] == ["Post it!", "Post it!_2"]
    assert {"Post_it_.body", "Post_it__2.body"} <= schemas.keys()


def test_a_schema_of_true_or_false_is_written_as_an_object() -> None:
    """Tools that know only object schemas can read it."""
    _, schemas = describe_steps(("", [endpoint("any", True), endpoint("none", False)]))
    assert (schemas["any.body"], schemas["none.body"]) == ({}, {"not": {}})
    assert json.dumps(schemas)
