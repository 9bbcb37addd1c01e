"""JSON past the limits of Python's own reader and writer."""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidelog.json_text import parse, write

DIGITS = 131_072  # the most that Postgres's numeric has before the point
DEEP = 20_000
LIMIT = sys.get_int_max_str_digits()

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def nested(levels: int, inner: str = "") -> str:
    return "[" * levels + inner + "]" * levels


def fail(value: Any) -> Any:
    raise TypeError(type(value))


def digits(value: int) -> str:
    return format(Decimal(value), "f")


@settings(max_examples=50)
@given(plain, st.sampled_from([None, 2]))
def test_it_reads_and_writes_what_python_does(value: Any, indent: int | None) -> None:
    """Also where it goes its own way, as around a number that is too long for Python."""
    text = f"[{'1' * (LIMIT + 1)},{json.dumps(value, indent=indent)}]"
    assert parse(text)[1] == value
    assert json.loads(write(value, fail)) == value


@given(st.text(alphabet='[]{},:"1e.-tfnul as', max_size=12))
def test_it_refuses_what_python_refuses(text: str) -> None:
    """What is no JSON is none behind a long number, either."""
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            parse(text)
        with pytest.raises(ValueError):
            parse(f"[{'1' * (LIMIT + 1)},{text or ','}]")
    else:
        assert parse(text) == expected


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("length", [1, 308, 309, LIMIT, LIMIT + 1, DIGITS])
def test_an_integer_has_all_its_digits(sign: str, length: int) -> None:
    """However many, and the same come out again."""
    text = f'{{"a":{sign}{"7" * length},"b":[1]}}'
    value = parse(text)
    assert digits(value["a"]) == f"{sign}{'7' * length}" and value["b"] == [1]
    assert write(value, fail) == text


def test_a_number_beyond_a_float_is_an_integer() -> None:
    """Rather than infinity, which is no JSON; smaller ones are floats, whatever stands around them."""
    text = f"[1{'0' * 400}.5,-1{'0' * 400}.5,1{'0' * 300}.5,0.{'0' * 400}1]"
    assert parse(text) == [10**400, -(10**400), 1e300, 0.0]


def test_nesting_has_no_end() -> None:
    """Of arrays and of objects; what is beside them is there."""
    text = f'{{"deep":{nested(DEEP, "1")},"objects":{"{" + chr(34) + "a" + chr(34) + ":" + nested(DEEP) + "}"},"b":2}}'
    value = parse(text)
    assert value["b"] == 2
    assert write(value, fail) == text


def test_what_contains_itself_is_refused() -> None:
    """Rather than written for ever; what is only there twice is written twice."""
    inner: list[Any] = []
    assert write([inner, inner], fail) == "[[],[]]"
    inner.append({"a": inner})
    with pytest.raises(ValueError, match="contains itself"):
        write(inner, fail)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [{"a": -float("inf")}]])
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    """NaN and the infinities."""
    with pytest.raises(ValueError):
        write(value, fail)
