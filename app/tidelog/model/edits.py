"""Edits of an item, as pure functions: Motia's operations, JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7396).

Each may take the object that it is given for its own, and changes nothing of the operations. Knows nothing of schemas.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jsonpatch
import jsonpointer
from pydantic import BaseModel

from tidelog.errors import OperationInvalidError, shown

Fields = dict[str, Any]
Part = str | int
# Of one call: they are applied in the event loop.
OPERATIONS_MAX = 1000
# What the operations of a JSON Patch may copy together, of values and characters: else each could double the item.
COPIED_MAX = 1024 * 1024
PATH_PARTS_MAX = 100
_MISFITS = (TypeError, KeyError, RecursionError)  # of operations that are none; of values too deep to be copied
KINDS = ("set", "merge", "increment", "decrement", "remove")


def updated(fields: Fields | None, operations: Any) -> Fields:
    """What Motia's `operations` make of an item: {"type", "path", "value" | "by"}, in their order.

    A path is the name of a field, a dotted path, or a list of names and places in lists. A name with a dot in it goes
    before a dotted path. "" or no path is the whole item, which can be set and merged into. What is missing on the way
    is made, and so is an item that isn't there (None). Raises OperationInvalidError.
    """
    made: Fields = {} if fields is None else fields
    for number, operation in enumerate(_listed(operations)):
        given = _plain(operation)
        kind = given.get("type")
        if kind not in KINDS:
            culprit = given if kind is None else kind
            raise _invalid(f"operation {number}: type must be one of {', '.join(KINDS)}, not {shown(kind)}", culprit)
        try:
            made = _apply(made, kind, given)
        except OperationInvalidError as error:
            raise OperationInvalidError(f"operation {number} ({kind}): {error}", culprits=error.culprits) from None
    return made


def patched(fields: Fields | None, operations: Any) -> Any:
    """What a JSON Patch (RFC 6902) makes of an item: all of it, or none. Raises OperationInvalidError.

    An item that isn't there is {}.
    """
    made: Any = fields or {}
    copied = 0
    try:
        for one in _listed(operations):
            # A copy of the operation: what it adds is a part of the item then, which those behind it change.
            operation = copy.deepcopy(_plain(one))
            if operation.get("op") == "copy":
                copied += _weight(jsonpointer.resolve_pointer(made, operation["from"]), COPIED_MAX - copied)
                if copied > COPIED_MAX:
                    raise _invalid("the JSON Patch (RFC 6902) copies more than an item may have", operations)
            made = jsonpatch.apply_patch(made, [operation], in_place=True)
        return made
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, *_MISFITS) as error:
        raise _invalid(f"the JSON Patch (RFC 6902) does not apply: {error}", operations) from None


def merged(target: Any, patch: Any) -> Any:
    """What a JSON Merge Patch (RFC 7396, section 2) makes of `target`: fields replaced, added, or, by null, removed."""
    if not isinstance(patch, Mapping):
        return patch
    made = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            made.pop(name, None)
        else:
            made[name] = merged(made.get(name), value)
    return made


def _apply(fields: Fields, kind: str, given: Mapping[str, Any]) -> Fields:
    path = _parts(fields, given.get("path", ""))
    if kind in ("set", "merge"):
        if "value" not in given:
            raise _invalid('it has no "value"', given)
        value = copy.deepcopy(given["value"])
        change: Callable[[Any], Any] = (lambda _: value) if kind == "set" else lambda there: _merge(there, value)
    elif kind == "remove":
        if not path:
            raise _invalid("the whole item is removed by delete()", given)
        _remove(fields, path)
        return fields
    else:
        by = given.get("by", 1)
        if not _is_number(by):
            raise _invalid(f'"by" must be a number, not {shown(by)}', by)
        change = _adding(by if kind == "increment" else -by)
    if path:
        _change(fields, path, change)
        return fields
    whole = change(fields)
    if not isinstance(whole, dict):
        raise _invalid(f"an item is an object, not {shown(whole)}", whole)
    return whole


def _weight(value: Any, enough: int) -> int:
    """How many values and characters there are in `value`; counted no further than a little past `enough`."""
    weight = 0
    waiting = [value]
    while waiting and weight <= enough:
        one = waiting.pop()
        weight += 1
        if isinstance(one, str):
            weight += len(one)
        elif isinstance(one, dict):
            weight += sum(map(len, one))
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, int):
            weight += one.bit_length() // 3  # about its digits, of which it may have thousands
    return weight


def _merge(there: Any, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise _invalid(f"what is merged must be an object, not {shown(value)}", value)
    if there is None:
        return dict(value)
    if not isinstance(there, dict):
        raise _invalid(f"there is no object to merge into, but {shown(there)}", value)
    there.update(value)  # in place: a thousand small ones shall not copy a large item a thousand times
    return there


def _adding(by: int | float) -> Callable[[Any], Any]:
    def add(there: Any) -> Any:
        if there is None:
            return by
        if not _is_number(there):
            raise _invalid(f"there is no number to count, but {shown(there)}", by)
        try:
            return there + by
        except OverflowError:
            raise _invalid(f"{shown(there)} and {shown(by)} are too far apart to be added", by) from None

    return add


def _change(fields: Fields, path: Sequence[Part], change: Callable[[Any], Any]) -> None:
    """Replace what is at `path` by what `change` makes of it, None if nothing is."""
    container: Any = fields
    for part in path[:-1]:
        there = _get(container, part)
        if there is None:
            there = {}
            _put(container, part, there)
        container = there
    _put(container, path[-1], change(_get(container, path[-1])))


def _remove(fields: Fields, path: Sequence[Part]) -> None:
    container: Any = fields
    for part in path[:-1]:
        container = _get(container, part)
    if isinstance(container, dict):
        container.pop(str(path[-1]), None)
    elif isinstance(container, list) and (place := _place(container, path[-1])) < len(container):
        del container[place]


def _get(container: Any, part: Part) -> Any:
    if isinstance(container, dict):
        return container.get(str(part))
    if isinstance(container, list):
        place = _place(container, part)
        return container[place] if place < len(container) else None
    if container is None:
        return None
    raise _invalid(f"{part!r} is asked of what has no fields: {shown(container)}", part)


def _put(container: Any, part: Part, value: Any) -> None:
    if isinstance(container, list):
        place = _place(container, part)
        container[place : place + 1] = [value]
    elif isinstance(container, dict):
        container[str(part)] = value
    else:
        raise _invalid(f"{part!r} is asked of what has no fields: {shown(container)}", part)


def _place(container: list[Any], part: Part) -> int:
    """Where in a list, up to just behind its end."""
    text = str(part)
    if not (text.isascii() and text.isdecimal()) or int(text[:9]) > len(container):
        raise _invalid(f"a list has places from 0 to {len(container)}, not {shown(part)}", part)
    return int(text[:9])


def _parts(fields: Fields, path: Any) -> Sequence[Part]:
    if path is None or path == "":
        return ()
    if isinstance(path, str):
        parts: Sequence[Part] = (path,) if path in fields else path.split(".")
    elif isinstance(path, list | tuple) and all(isinstance(one, str | int) for one in path):
        parts = path
    else:
        raise _invalid(f"a path is a name, a dotted path or a list of names, not {shown(path)}", path)
    if len(parts) > PATH_PARTS_MAX or "" in parts:
        raise _invalid(f"a path has up to {PATH_PARTS_MAX} parts, none of them empty, not {shown(path)}", path)
    return parts


def _listed(operations: Any) -> Sequence[Any]:
    if isinstance(operations, Mapping | BaseModel) or dataclasses.is_dataclass(operations):
        operations = [operations]
    if not isinstance(operations, list | tuple):
        raise _invalid(f"operations are a list of objects, not {shown(operations)}", operations)
    if len(operations) > OPERATIONS_MAX:
        raise _invalid(f"{len(operations)} operations; at most {OPERATIONS_MAX} are taken at once", operations)
    return operations


def _plain(operation: Any) -> Mapping[str, Any]:
    """An operation as a mapping; Motia's are also objects with these attributes."""
    if isinstance(operation, BaseModel):
        return operation.model_dump()
    if dataclasses.is_dataclass(operation) and not isinstance(operation, type):
        return dataclasses.asdict(operation)
    if not isinstance(operation, Mapping):
        raise _invalid(f"an operation is an object, not {shown(operation)}", operation)
    return operation


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _invalid(message: str, culprit: Any) -> OperationInvalidError:
    return OperationInvalidError(message, culprits=[culprit])
