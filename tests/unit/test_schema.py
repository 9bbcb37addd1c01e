"""From what authors declare to a validator."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from app.errors import DeclarationError, Violation
from app.model.schema import LISTED_VALUES_MAX, MESSAGE_LENGTH_MAX, VIOLATIONS_MAX, compile_schema, schema_of


class Text(BaseModel):
    text: str


class NoJson(BaseModel):
    call: Callable[[], None]


def test_a_type_that_pydantic_knows_is_a_schema() -> None:
    """`list[Model]` is as good as a model."""
    schema = compile_schema(schema_of(list[Text]))
    assert schema.fits([{"text": "hi"}])
    assert not schema.fits([{"text": 1}])


@pytest.mark.parametrize("document", [True, False])
def test_a_bool_is_a_schema(document: bool) -> None:
    """True takes everything and False nothing, as JSON Schema says."""
    assert compile_schema(schema_of(document)).fits({}) is document


def test_violations_say_where_in_json_pointer() -> None:
    """A client finds the place: `/` and `~` in names are escaped (RFC 6901)."""
    schema = compile_schema({"properties": {"a/b~c": {"items": {"type": "integer"}}}})
    assert schema.violations({"a/b~c": [1, "x"]}) == [Violation("/a~1b~0c/1", '"x" is not of type "integer"')]
    assert schema.violations({"a/b~c": [1]}) == []


def test_violations_are_bounded() -> None:
    """A body that is wrong in a million places gets a short answer."""
    schema = compile_schema({"items": {"type": "integer"}})
    assert len(schema.violations(["x"] * 1000)) == VIOLATIONS_MAX


def test_violations_quote_no_more_than_tells_what_is_meant() -> None:
    """A message has the beginning of the value and what is wrong with it; a name in a path is cut, too."""
    (violation,) = compile_schema({"items": {"type": "integer"}}).violations(["x" * 1_000_000])
    assert len(violation.message) <= MESSAGE_LENGTH_MAX + 5
    assert violation.message.startswith('"xxx') and violation.message.endswith('is not of type "integer"')
    (violation,) = compile_schema({"additionalProperties": {"type": "integer"}}).violations({"0": "x"})
    assert violation.path == "/0"
    name = "n" * 10_000
    (violation,) = compile_schema({"additionalProperties": {"type": "integer"}}).violations({name: "x"})
    assert len(violation.path) <= MESSAGE_LENGTH_MAX + 5


def test_of_a_large_value_only_the_first_violation_is_told() -> None:
    """The validator would find all of a million before it tells one."""
    schema = compile_schema({"items": {"type": "integer"}})
    (violation,) = schema.violations([1, *["x"] * 1_000_000])
    assert violation.path == "/1"
    assert len(schema.violations(["x"] * (LISTED_VALUES_MAX - 1))) == VIOLATIONS_MAX


@pytest.mark.parametrize("declared", ["Text", Text(text="hi"), print, NoJson, 5])
def test_what_is_no_schema_is_refused(declared: Any) -> None:
    """An instance, a name, a function, or a model that JSON can't describe."""
    with pytest.raises(DeclarationError, match="a schema must be JSON Schema"):
        schema_of(declared)


@pytest.mark.parametrize(
    "document",
    [
        {"type": "sting"},
        {"pattern": "("},
        {"properties": {"a": Text}},
        {1: 2},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/$defs/missing"},
    ],
)
def test_an_invalid_schema_is_refused(document: Any) -> None:
    """It is found when the file is read, not when the first item comes; nothing is fetched from elsewhere."""
    with pytest.raises(DeclarationError, match="not a valid JSON Schema"):
        compile_schema(document)
