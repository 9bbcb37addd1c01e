"""What is told of a value that can't be stored as JSON."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from tidelog.errors import ItemInvalidError
from tidelog.store.item_json import PATH_LENGTH_MAX, to_json


class Score(BaseModel):
    value: float


def nested(depth: int, innermost: Any) -> Any:
    for _ in range(depth):
        innermost = [innermost]
    return innermost


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"scores": [1.5, {"a/b": float("nan")}]}, "/scores/1/a~1b is nan: "),
        (float("-inf"), "it is -inf: "),
        ({"a": 1, "b": object}, "/b is <class 'object'>: "),
        ({"text": "\ud800"}, "/text is '\\ud800': "),
        (Score(value=float("nan")), "/value is nan: "),
        ({"score": Score(value=float("nan"))}, "/score is Score(value=nan): "),
    ],
)
def test_what_is_no_json_is_named_with_its_place(value: Any, place: str) -> None:
    """In an item of many fields nobody finds a NaN by the word that there is one."""
    with pytest.raises(ItemInvalidError) as raised:
        to_json(value)
    assert str(raised.value).startswith(f"not JSON: {place}")


def test_a_value_without_such_a_place_is_told_as_before() -> None:
    """It contains itself, is too deep, or has a key that is none; the look for a place ends."""
    circle: list[Any] = []
    circle.append(circle)
    for value, said in ((circle, "Circular reference"), (nested(200_000, 1), ""), ({(1, 2): 3}, "keys must be")):
        with pytest.raises(ItemInvalidError, match=f"^not JSON: .*{said}") as raised:
            to_json(value)
        assert len(str(raised.value)) < PATH_LENGTH_MAX + 200
