"""What a command says when it can't begin: lines for the person who started it, and no traceback."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_settings import SettingsError

from tidelog.errors import TidelogError
from tidelog.logs.redaction import Redaction

# What somebody can mend who reads it. Anything else is a bug, whose traceback is wanted.
TOLD = (TidelogError, ValidationError, SettingsError, OSError)


def last_words(error: BaseException, redaction: Redaction | None = None) -> str:
    """What is wrong: a line, or one for each wrong setting. Without secrets; for sys.exit()."""
    if isinstance(error, ValidationError):
        lines = _wrong_settings(error)
    elif isinstance(error, TidelogError):
        lines = [f"{error.code}: {error}"]
    else:
        lines = [str(error)]
    redaction = redaction or Redaction()
    return "\n".join(f"tidelog: {redaction.text(line)}" for line in lines)


def _wrong_settings(error: ValidationError) -> list[str]:
    """Names the environment variables, as it was those that somebody wrote."""
    lines = []
    for wrong in error.errors():
        message = wrong["msg"].removeprefix("Value error, ")
        if wrong["loc"]:
            lines.append(f"TIDELOG_{'.'.join(map(str, wrong['loc'])).upper()} is {wrong['input']!r}: {message}")
        else:  # of all of them together: names of variables
            lines.extend(message.split("\n"))
    return lines
