"""What a stream's `indexes` may say, and the SQL that it is."""

from __future__ import annotations

from typing import Any

import pytest

from tidelog.errors import DeclarationError
from tidelog.model.index import INDEXES_MAX
from tidelog.model.stream import TABLE_NAME_LENGTH_MAX, Stream


@pytest.mark.parametrize(
    ("declared", "on"),
    [
        ("status", "btree ((data #> '{status}'))"),
        ("author.name", "btree ((data #> '{author,name}'))"),
        (["status", "due.at"], "btree ((data #> '{status}'), (data #> '{due,at}'))"),
        ({"expression": "lower(data ->> 'title')"}, "btree ((lower(data ->> 'title')))"),
        ([{"expression": "group_id"}, "status"], "btree ((group_id), (data #> '{status}'))"),
        ({"expression": "data", "using": "gin"}, "gin ((data))"),
        ("it's", "btree ((data #> '{\"it''s\"}'))"),
        ('a\\b"c', 'btree ((data #> E\'{"a\\\\\\\\b\\\\"c"}\'))'),
        ("null", "btree ((data #> '{\"null\"}'))"),
        ("list.0", "btree ((data #> '{list,\"0\"}'))"),
    ],
)
def test_an_index_is_of_paths_and_expressions(declared: Any, on: str) -> None:
    """A path is the jsonb that is there, which compares numbers as numbers and texts as texts."""
    (index,) = Stream("job", indexes=[declared]).indexes
    assert index.on == f"using {on}"


def test_an_index_has_a_name_that_is_its_own_and_fits() -> None:
    """The same declaration is the same index, another one another; Postgres cuts no name."""
    name = "a" * TABLE_NAME_LENGTH_MAX
    one, two = Stream(name, indexes=["status", "title", "status"]).indexes
    assert one == Stream.from_config({"name": name, "indexes": ["status"]}).indexes[0]
    assert one.name != two.name and max(len(one.name), len(two.name)) <= 63


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("status", "indexes must be a list"),
        ([""], "is no path"),
        (["a..b"], "is no path"),
        (["a\0b"], "is no path"),
        ([5], "an index must be a path"),
        ([[]], "1 to 8 columns"),
        ([{"expression": ""}], "must be SQL"),
        ([{"expression": "a\0"}], "NUL"),
        ([{"expression": "data", "unique": True}], "an index must be a path"),
        ([{"expression": "data", "using": "brin"}], "must be one of btree, gin"),
        ([str(n) for n in range(INDEXES_MAX + 1)], "17 indexes; at most 16"),
    ],
)
def test_what_is_no_index_is_refused_with_its_stream(declared: Any, said: str) -> None:
    """With what can be written instead."""
    with pytest.raises(DeclarationError, match=said) as refused:
        Stream("job", indexes=declared)
    assert str(refused.value).startswith("stream 'job': ")
