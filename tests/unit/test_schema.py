"""From what authors declare to a validator."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from app.errors import DeclarationError, Violation
from app.model.schema import VIOLATIONS_MAX, compile_schema, schema_of


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
