"""From what authors declare to a validator."""

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tidelog.errors import DeclarationError, Violation
from tidelog.model.schema import (
    LISTED_VALUES_MAX,
    MESSAGE_LENGTH_MAX,
    VIOLATIONS_MAX,
    compile_declared,
    compile_schema,
    schema_of,
)


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


@pytest.mark.parametrize(
    ("options", "value", "message"),
    [
        (["queued", "running", "done"], "runing", '"runing" is not one of "queued", "running", "done"'),
        ([None, 2.5, {"a": "é"}, True], 3, '3 is not one of null, 2.5, {"a":"é"}, true'),
        ([f"country {n}" for n in range(200)], "x" * 1000, '"country 12", or 187 others'),
        (["x" * 1000, "z"], "y", 'x", or 1 others'),
    ],
)
def test_a_violation_names_what_an_enum_takes(options: list[Any], value: Any, message: str) -> None:
    """All of it if there is room; else how many more there are. Also where it is the enum of a name."""
    (of_name,) = compile_schema({"propertyNames": {"enum": ["red", "green", "blue"]}}).violations({"blu": 1})
    assert of_name.message == '"blu" is not one of "red", "green", "blue"'
    (violation,) = compile_schema({"enum": options}).violations(value)
    assert message in violation.message
    assert len(violation.message) <= MESSAGE_LENGTH_MAX


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


class Trip(BaseModel):
    model_config = ConfigDict(strict=True)

    sent_at: datetime = Field(alias="sentAt")
    lasts: timedelta = timedelta(minutes=1)
    at: time | None = None
    to: str = "home"

    @field_validator("to")
    @classmethod
    def is_tidy(cls, to: str) -> str:
        if to == "nowhere":
            raise ValueError("nowhere is no place")
        return to.strip()


def test_a_class_makes_of_a_body_what_it_says() -> None:
    """Validators run and defaults are filled in; plain JSON comes out, by the names that came in."""
    schema = compile_declared(Trip)
    trip = {"sentAt": "2026-01-31T12:00:00Z", "to": " sea "}
    whole = {"sentAt": "2026-01-31T12:00:00Z", "lasts": "PT1M", "at": None, "to": "sea"}
    assert schema.read(trip) == (whole, [])
    _, violations = schema.read({"sentAt": "yesterday", "to": "nowhere"})
    assert [violation.path for violation in violations] == ["/sentAt", "/to"]
    assert "nowhere is no place" in violations[1].message


def test_a_class_only_checks_an_item() -> None:
    """By its JSON Schema and by its validators: what is stored is what was given."""
    schema = compile_declared(Trip)
    assert schema.fits({"sentAt": "2026-01-31T12:00:00Z", "to": " sea "})
    assert not schema.fits({"sentAt": "2026-01-31T12:00:00Z", "to": "nowhere"})
    assert not schema.fits({"sentAt": "yesterday"})
    assert "nowhere" in schema.violations({"sentAt": "2026-01-31T12:00:00Z", "to": "nowhere"})[0].message


def test_a_dict_is_json_schema_and_no_more() -> None:
    """The class's validators and defaults are not in it."""
    schema = compile_declared(Trip.model_json_schema())
    trip = {"sentAt": "2026-01-31T12:00:00Z", "to": "nowhere"}
    assert schema.read(trip) == (trip, [])


def test_a_class_tells_a_bounded_number_of_violations() -> None:
    """However many places don't fit."""
    schema = compile_declared(list[int])
    assert len(schema.read(["x"] * 1000)[1]) == VIOLATIONS_MAX
    (violation,) = schema.read(["x"] * 100_000)[1]
    assert violation.message == "100000 places do not fit"


@pytest.mark.parametrize(
    ("format", "good", "bad"),
    [
        (
            "date-time",
            ["2026-01-31T12:00:00Z", "2026-01-31t12:00:00.123456+01:00", "2026-01-31T12:00:00"],
            ["2026-01-31", "yesterday", "2026-13-01T00:00:00Z", "2026-01-31T12:00:00+25:00", "20260131T120000Z"],
        ),
        ("time", ["12:00:00", "12:00:00.5Z"], ["12", "25:00:00"]),
        ("date", ["2026-01-31"], ["2026-02-30", "31.1.2026"]),
        ("duration", ["PT1M", "P1DT2H", "-P1D", "PT0.5S", "P2W", "PT0S"], ["P", "1 day", "PT", "P1DT"]),
        ("email", ["ada@example.com"], ["ada"]),
        ("uuid", ["6ba7b810-9dad-11d1-80b4-00c04fd430c8"], ["6ba7b810"]),
        ("uri", ["https://example.com/a?b#c"], ["not a uri"]),
        ("ipv4", ["127.0.0.1"], ["127.0.0"]),
        ("our-own", ["anything"], []),
    ],
)
def test_formats_are_checked(format: str, good: list[str], bad: list[str]) -> None:
    """As RFC 3339 and its like say, and as Python writes dates and times; unknown formats say nothing."""
    schema = compile_schema({"type": "string", "format": format})
    assert [text for text in good if not schema.fits(text)] == []
    assert [text for text in bad if schema.fits(text)] == []


@given(st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.none() | st.just(UTC)), st.timedeltas(), st.times())
def test_a_models_own_data_fits_its_schema(sent_at: datetime, lasts: timedelta, at: time) -> None:
    """What pydantic writes of dates and times, with a time zone or without, is what its JSON Schema takes here."""
    trip = Trip(sentAt=sent_at, lasts=lasts, at=at)
    assert compile_schema(Trip.model_json_schema()).violations(trip.model_dump(mode="json", by_alias=True)) == []
