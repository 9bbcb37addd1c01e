"""Looks into a handler's source for parts of Motia's context that Tidelog's hasn't: when the file is read, not at 3 am.

Found is what is written on the context itself, by whatever name the handler has it, in the handler and in the functions
of its file that are handed the context. What reaches it by other ways fails when it runs, with the same advice.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

from tidelog.errors import DeclarationError
from tidelog.runtime.names import meant_by
from tidelog.runtime.state_calls import OPERATIONS as OF_STATE
from tidelog.runtime.stream_calls import OPERATIONS as OF_STREAMS

_ONE_KIND = "a step with a `type` has one kind of trigger; declare `triggers`, as Motia 1.0 does, for several"
MISSING = {
    "enqueue": "write context.emit({...}), and the topic into the config's `emits`",
    "trigger": _ONE_KIND,
    "match": _ONE_KIND,
    **dict.fromkeys(("is_api", "is_http", "is_queue", "is_cron", "is_state", "is_stream", "get_data"), _ONE_KIND),
    **dict.fromkeys(("isApi", "isHttp", "isQueue", "isCron", "isState", "isStream", "getData"), _ONE_KIND),
}

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def check_context_use(
    handler: Callable[..., Any], file: Path, root: Path, place: int = 1, missing: Mapping[str, str] = MISSING
) -> None:
    """Raise DeclarationError, with the line, if the handler uses what its context hasn't.

    `place` is the context's among its arguments; `missing` says what a context hasn't, and what to do instead.
    `handler` may have been made elsewhere in the project (under `root`), and may be wrapped as functools.wraps does.
    """
    code, place = _code_of(handler, place)
    if code is None or not Path(code.co_filename).is_relative_to(root):
        return
    source = Path(code.co_filename)
    tree = ast.parse(source.read_bytes())
    functions = [node for node in ast.walk(tree) if isinstance(node, _Function)]
    made_by = next(
        (one for one in functions if one.name == code.co_name and _first_line(one) == code.co_firstlineno), None
    )
    name = None if made_by is None else _parameter(made_by, place)
    if made_by is None or name is None:
        return
    top = {node.name: node for node in tree.body if isinstance(node, _Function)}
    for called, advice, line in _Screening(top, missing).uses(made_by, name):
        elsewhere = "" if source == file else f"{source.relative_to(root)}, "
        error = DeclarationError(f"{elsewhere}line {line}: {called} does not exist in Tidelog: {advice}")
        error.line = line
        raise error


class _Screening:
    """One look, from function to function."""

    def __init__(self, functions: dict[str, _Function], missing: Mapping[str, str]) -> None:
        self._functions = functions  # of the file's top level
        self._missing = missing
        self._seen: set[tuple[str, str]] = set()

    def uses(self, function: _Function, context: str) -> Iterator[tuple[str, str, int]]:
        """What `function` uses of what is missing, what to do instead, in what line. `context` is its name for it."""
        if (function.name, context) in self._seen:
            return
        self._seen.add((function.name, context))
        names = {context}
        nodes = list(_own_nodes(function, context))
        if any(isinstance(node, ast.Name) and node.id == context and _is_bound(node) for node in nodes):
            return  # it is given another meaning
        for node in nodes:  # `ctx = context`
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id == context:
                names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        rebound = [node.id for node in nodes if isinstance(node, ast.Name) and node.id in names and _is_bound(node)]
        names = {context, *(name for name in names if rebound.count(name) == 1)}
        for node in nodes:
            if isinstance(node, ast.Attribute) and (advice := self._advice(node, names)) is not None:
                yield ast.unparse(node), advice, node.lineno
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                yield from self._of_call(node, node.func.id, names)

    def _of_call(self, call: ast.Call, called: str, names: set[str]) -> Iterator[tuple[str, str, int]]:
        if called == "getattr" and len(call.args) == 2 and _is_one(call.args[0], names):
            wanted = call.args[1]
            if isinstance(wanted, ast.Constant) and isinstance(wanted.value, str) and wanted.value in self._missing:
                yield f"{ast.unparse(call.args[0])}.{wanted.value}", self._missing[wanted.value], call.lineno
        function = self._functions.get(called)
        if function is None:
            return
        for place, argument in enumerate(call.args):
            parameter = _parameter(function, place)
            if parameter is not None and _is_one(argument, names):
                yield from self.uses(function, parameter)
        for keyword in call.keywords:
            if keyword.arg is not None and _is_one(keyword.value, names):
                yield from self.uses(function, keyword.arg)

    def _advice(self, node: ast.Attribute, names: set[str]) -> str | None:
        """What to do instead of this attribute of a context, its state or one of its streams; None if it is there."""
        owner = node.value
        if _is_one(owner, names):
            return self._missing.get(node.attr)
        if not isinstance(owner, ast.Attribute) or node.attr.startswith("_"):
            return None
        if owner.attr == "state" and _is_one(owner.value, names):
            return None if node.attr in OF_STATE else meant_by(node.attr, OF_STATE)
        streams = owner.value
        if isinstance(streams, ast.Attribute) and streams.attr == "streams" and _is_one(streams.value, names):
            is_known = node.attr in OF_STREAMS or owner.attr in vars(Mapping)  # context.streams.get is the mapping's
            return None if is_known else meant_by(node.attr, OF_STREAMS)
        return None


def _code_of(handler: Any, place: int) -> tuple[CodeType | None, int]:
    """The code that runs, and which of its parameters is the context."""
    handler = inspect.unwrap(handler)
    if isinstance(handler, partial):
        return None, place  # which arguments are taken already says no position
    if not inspect.isroutine(handler):
        handler = getattr(type(handler), "__call__", None)  # noqa: B004 - of a handler that is an object
        place += 1
    if inspect.ismethod(handler):
        handler, place = handler.__func__, place + 1
    return getattr(inspect.unwrap(handler), "__code__", None), place


def _own_nodes(function: _Function, context: str) -> Iterator[ast.AST]:
    """The nodes of its body, without those of inner functions that call something else so."""
    pending: list[ast.AST] = list(function.body)
    while pending:
        node = pending.pop(0)
        if isinstance(node, _Function | ast.Lambda) and context in _parameters(node):
            continue
        yield node
        pending.extend(ast.iter_child_nodes(node))


def _parameters(function: _Function | ast.Lambda) -> list[str]:
    given = function.args
    several = [one for one in (given.vararg, given.kwarg) if one is not None]
    return [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, *several)]


def _parameter(function: _Function, place: int) -> str | None:
    positional = (*function.args.posonlyargs, *function.args.args)
    return positional[place].arg if place < len(positional) else None


def _first_line(function: _Function) -> int:
    """As code objects have it: that of the first decorator."""
    return min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])


def _is_one(node: ast.expr, names: set[str]) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def _is_bound(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store | ast.Del)
