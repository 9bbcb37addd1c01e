"""What an author says of who may have a stream: functions, as they are declared. Nothing here calls them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tidelog.errors import DeclarationError

# Motia's spelling, and Python's.
SPELLINGS = {
    "canAccess": "can_access",
    "can_access": "can_access",
    "onJoin": "on_join",
    "on_join": "on_join",
    "onLeave": "on_leave",
    "on_leave": "on_leave",
}


@dataclass(frozen=True, slots=True)
class Function:
    """A function of an author's, which takes up to so many arguments by their place."""

    name: str  # for messages
    call: Callable[..., Any]
    arguments_max: int
    is_async: bool

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


@dataclass(frozen=True, slots=True)
class Rule:
    """A stream's functions. Without `can_access` there is no rule, and TIDELOG_ACCESS says who may."""

    can_access: Function | None = None
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
            found[part] = Function.of(name, function, ("subscription", "auth"))
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


def is_async(function: Callable[..., Any]) -> bool:
    """Whether it was written as `async def`, or is an object whose `__call__` was."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004 - of an object that is called
    )
