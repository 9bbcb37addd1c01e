"""What edits make of an item: Motia's operations, and the two RFCs for JSON."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from tidelog.errors import OperationInvalidError
from tidelog.model.edits import OPERATIONS_MAX, merged, patched, updated


def op(kind: str, path: Any = "", **more: Any) -> dict[str, Any]:
    return {"type": kind, "path": path, **more}


@pytest.mark.parametrize(
    ("before", "operations", "after"),
    [
        (None, [], {}),
        (None, [op("set", "a", value=1)], {"a": 1}),
        ({"a": 1}, [op("set", "a", value=None)], {"a": None}),
        ({"a": 1}, [op("set", value={"b": 2})], {"b": 2}),
        ({"a": 1}, [op("set", "b.c.d", value=2)], {"a": 1, "b": {"c": {"d": 2}}}),
        ({"b.c": 1}, [op("set", "b.c", value=2)], {"b.c": 2}),
        ({}, [op("set", ["b.c", "d"], value=2)], {"b.c": {"d": 2}}),
        ({"a": [1, {"b": 2}]}, [op("set", ["a", 1, "b"], value=3)], {"a": [1, {"b": 3}]}),
        ({"a": [1]}, [op("set", "a.1", value=2)], {"a": [1, 2]}),
        ({"a": [1, 2]}, [op("remove", "a.0")], {"a": [2]}),
        ({"a": 1}, [op("merge", value={"b": 2, "a": None})], {"a": None, "b": 2}),
        ({"a": {"x": 1}}, [op("merge", "a", value={"y": {"z": 2}})], {"a": {"x": 1, "y": {"z": 2}}}),
        ({"a": 1}, [{"type": "merge", "value": {"b": 2}}], {"a": 1, "b": 2}),
        ({}, [op("merge", "a", value={"y": 2})], {"a": {"y": 2}}),
        ({"n": 1}, [op("increment", "n", by=2)], {"n": 3}),
        ({"n": 1}, [op("increment", "n")], {"n": 2}),
        ({}, [op("increment", "n", by=5)], {"n": 5}),
        ({"n": None}, [op("decrement", "n")], {"n": -1}),
        ({}, [op("decrement", "a.n", by=1.5)], {"a": {"n": -1.5}}),
        ({"a": {"b": 1, "c": 2}}, [op("remove", "a.b")], {"a": {"c": 2}}),
        ({"a": 1}, [op("remove", "b"), op("remove", "b.c.d")], {"a": 1}),
        ({}, [op("set", "a", value={}), op("set", "a.b", value=1), op("remove", "a.b")], {"a": {}}),
    ],
)
def test_operations_are_applied_in_their_order(before: Any, operations: Any, after: Any) -> None:
    """What is missing on the way is made; the operations stay as they are, for another try."""
    given_before, given_operations = copy.deepcopy(before), copy.deepcopy(operations)
    assert updated(given_before, given_operations) == after
    assert given_operations == operations


def test_an_operation_may_be_an_object_as_well() -> None:
    """Motia's are, in its later releases; and one alone needs no list."""

    class Increment(BaseModel):
        type: str = "increment"
        path: str = "n"
        by: int = 1

    @dataclass
    class Set:
        path: str
        value: Any
        type: str = "set"

    assert updated(None, [Increment(), Set("a", 1), Increment(by=2)]) == {"n": 3, "a": 1}
    assert updated(None, Increment()) == {"n": 1}


@pytest.mark.parametrize(
    "operations",
    [
        None,
        "set",
        [None],
        [{}],
        [op("add", "a", value=1)],
        [op("set", "a")],
        [op("set", 5, value=1)],
        [op("set", "a..b", value=1)],
        [op("set", ["a", None], value=1)],
        [op("set", value=1)],
        [op("set", "text.a", value=1)],
        [op("set", "list.2", value=1)],
        [op("set", "list.-1", value=1)],
        [op("set", "list.x", value=1)],
        [op("set", ".".join("a" * 101), value=1)],
        [op("merge", value=[1])],
        [op("merge", "text", value={})],
        [op("increment", "text")],
        [op("increment", "list")],
        [op("increment", "n", by="1")],
        [op("increment", "n", by=True)],
        [op("increment", "half", by=10**1023)],
        [op("increment")],
        [op("remove")],
        [op("set", "a", value=1)] * (OPERATIONS_MAX + 1),
    ],
)
def test_an_operation_that_makes_no_sense_says_so(operations: Any) -> None:
    """Nothing is skipped: an increment of a text would be lost in silence."""
    with pytest.raises(OperationInvalidError):
        updated({"text": "a", "list": [1], "n": 1, "half": 0.5}, operations)


# The examples of RFC 7396, appendix A.
@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_is_that_of_the_rfc(target: Any, patch: Any, result: Any) -> None:
    assert merged(target, patch) == result


def test_a_json_patch_is_that_of_the_rfc() -> None:
    """Its six operations, pointers with escapes, and `test` by JSON's equality: 1 is 1.0, and is not true."""
    before = {"a/b": {"~": [1, 2]}, "n": 1, "t": True}
    operations = [
        {"op": "test", "path": "/n", "value": 1.0},
        {"op": "add", "path": "/a~1b/~0/1", "value": 5},
        {"op": "copy", "from": "/n", "path": "/m"},
        {"op": "move", "from": "/t", "path": "/u"},
        {"op": "replace", "path": "/n", "value": {"x": []}},
        {"op": "add", "path": "/n/x/-", "value": 1},
        {"op": "remove", "path": "/a~1b/~0/0"},
    ]
    given_operations = copy.deepcopy(operations)
    assert patched(before, operations) == {"a/b": {"~": [5, 2]}, "n": {"x": [1]}, "m": 1, "u": True}
    assert operations == given_operations


@pytest.mark.parametrize(
    "operations",
    [
        "x",
        [5],
        [{"op": "test", "path": "/n", "value": True}],
        [{"op": "add", "path": "n", "value": 1}],
        [{"op": "add", "path": "/n"}],
        [{"op": "remove", "path": "/none"}],
        [{"op": "remove", "path": ""}],
        [{"op": "add", "path": "/list/-1", "value": 1}],
        [{"op": "add", "path": "/list/01", "value": 1}],
        [{"op": "move", "from": "/deep", "path": "/deep/x/y"}],
        [{"op": "increment", "path": "/n"}],
        [{"op": "add", "path": 5, "value": 1}],
        [{"path": "/n"}],
        [{"op": "copy", "from": "/n"}],
    ],
)
def test_a_json_patch_that_does_not_apply_says_so(operations: Any) -> None:
    with pytest.raises(OperationInvalidError):
        patched({"n": 1, "list": [1], "deep": {"x": {}}}, operations)


@pytest.mark.parametrize(
    ("before", "operations"),
    [
        ({"n": 1}, [{"op": "copy", "from": "", "path": f"/k{n}"} for n in range(60)]),
        ({"n": 1}, [{"op": "copy", "from": "", "path": "/k" * 2**n} for n in range(12)]),
        ({"n": [10**4000] * 10}, [{"op": "copy", "from": "/n", "path": f"/k{n}"} for n in range(60)]),
        ({"text": "x" * 2048}, [{"op": "copy", "from": "/text", "path": f"/k{n}"} for n in range(1000)]),
        ({"list": ["x"] * 2048}, [{"op": "copy", "from": "/list", "path": f"/k{n}"} for n in range(1000)]),
    ],
)
def test_copies_of_copies_are_bounded(before: Any, operations: Any) -> None:
    """Some hundred bytes of operations would double the item until no memory is left."""
    with pytest.raises(OperationInvalidError) as refused:
        patched(before, operations)
    assert refused.value.culprits == (operations,)


def test_many_small_merges_into_a_large_item_copy_it_never() -> None:
    """A thousand copies of it would stop the event loop for seconds."""
    large = {f"k{n}": n for n in range(1000)}
    made = updated({"a": large}, [op("merge", "a", value={"n": n}) for n in range(OPERATIONS_MAX)])
    assert made["a"] is large and large["n"] == OPERATIONS_MAX - 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.text("ab./~", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.01", max_size=3), inner, max_size=3),
    max_leaves=8,
)
PATHS = st.text("ab./~01-", max_size=5) | st.lists(st.sampled_from(["a", "b", "0", 0, 1, -1]), max_size=3) | JSON
KINDS = st.sampled_from(["set", "merge", "increment", "decrement", "remove", "add", "test", "copy", "move", "replace"])


@given(
    st.dictionaries(st.text("ab.01", max_size=3), JSON, max_size=3),
    st.lists(
        st.fixed_dictionaries({"type": KINDS, "op": KINDS, "path": PATHS, "from": PATHS, "value": JSON, "by": JSON})
    ),
)
def test_whatever_it_is_given_an_edit_makes_json_or_says_why_not(before: Any, operations: Any) -> None:
    """And applied once more to what it was given, it does the same."""
    for edit in (updated, patched):
        outcomes = []
        for _ in range(2):
            try:
                outcomes.append(json.dumps(edit(copy.deepcopy(before), operations)))
            except OperationInvalidError:
                outcomes.append("refused")
        assert outcomes[0] == outcomes[1]
