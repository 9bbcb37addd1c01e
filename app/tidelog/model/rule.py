"""What an author says of who may have a stream: functions, as they are declared. Nothing here calls them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tidelog.errors import DeclarationError

# Motia's spelling, and Python's.
SPELLINGS = {
    "canAccess": "can_access",
    "can_access": "can_access",
    "canList": "can_list",
    "can_list": "can_list",
    "onJoin": "on_join",
    "on_join": "on_join",
    "onLeave": "on_leave",
    "on_leave": "on_leave",
}

_WITHOUT_CONTEXT = ("subscription", "auth")
_WITH_CONTEXT = ("subscription", "context", "auth")


@dataclass(frozen=True, slots=True)
class Function:
    """A function of an author's, which takes up to so many arguments by their place."""

    name: str  # for messages
    call: Callable[..., Any]
    arguments_max: int
    is_async: bool
    takes_context: bool = False  # between its first argument and the last one

    @classmethod
    def of(cls, name: str, function: Any, parameters: tuple[str, ...]) -> Function:
        """Raises DeclarationError if it can't be called with the parameters, nor with the first of them alone."""
        if not callable(function):
            raise DeclarationError(f"{name} must be a function, not {function!r:.80}")
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise DeclarationError(f"{name} yields: it answers once, with `return`")
        for count in dict.fromkeys((len(parameters), 1)):
            if _takes(function, parameters[:count]):
                return cls(name, function, count, is_async(function))
        either = f"({', '.join(parameters)})" + (f" or ({parameters[0]})" if len(parameters) > 1 else "")
        raise DeclarationError(f"{name}{inspect.signature(function)} must take {either}")

    @classmethod
    def of_join(cls, name: str, function: Any) -> Function:
        """One of `onJoin` and `onLeave`: with three parameters it is called as Motia calls it, with a context.

        By how many are written, as one with a default may be either. Raises DeclarationError.
        """
        if callable(function) and _count_positional(function) == 3 and _takes(function, _WITH_CONTEXT):
            return replace(cls.of(name, function, _WITH_CONTEXT), takes_context=True)
        return cls.of(name, function, _WITHOUT_CONTEXT)


@dataclass(frozen=True, slots=True)
class Rule:
    """A stream's functions. Without `can_access` there is no rule, and TIDELOG_ACCESS says who may."""

    can_access: Function | None = None
    can_list: Function | None = None  # who may list the groups, which only it can open where there is a rule
    on_join: Function | None = None
    on_leave: Function | None = None

    @classmethod
    def of(cls, functions: Mapping[str, Any]) -> Rule:
        """Of functions by their names, in either spelling. Raises DeclarationError."""
        found: dict[str, Function] = {}
        for name, function in functions.items():
            part = SPELLINGS[name]
            if part in found:
                raise DeclarationError(f"{found[part].name} and {name} are the same: leave one out")
            found[part] = (
                Function.of(name, function, _WITHOUT_CONTEXT)
                if part == "can_access"
                else Function.of_join(name, function)
            )
        return cls(**found)

    def __bool__(self) -> bool:
        return self != NO_RULE


NO_RULE = Rule()


def _takes(function: Callable[..., Any], parameters: tuple[str, ...]) -> bool:
    try:
        inspect.signature(function).bind(*parameters)
    except ValueError:  # one that is not written in Python, and says nothing of itself
        return True
    except TypeError:
        return False
    return True


def _count_positional(function: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return 0
    return sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether it was written as `async def`, or is an object whose `__call__` was."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004 - of an object that is called
    )
