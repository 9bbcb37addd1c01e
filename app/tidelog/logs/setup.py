"""Where the log goes: one handler on the root logger, unless somebody else has set up logging already."""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType

from tidelog.logs.handler import LineHandler
from tidelog.logs.lines import LineFormatter
from tidelog.logs.redaction import Redaction
from tidelog.settings import Settings

# Whose lines are shown from TIDELOG_LOG_LEVEL on: the server's, and those of the authors' files. Libraries are heard
# from `warning` on: at `info` HTTP clients log whole URLs, with the tokens in them.
OURS = ("tidelog", "app", "tidelog_project")

_log = logging.getLogger("tidelog")


def configure(settings: Settings) -> LineHandler | None:
    """Set up logging for this process, once. If the root logger has another handler already, nothing is changed: None.

    Other loggers' handlers stay: an ASGI server that logs by its own goes on to do so.
    """
    root = logging.getLogger()
    if root.handlers:
        only = root.handlers[0] if len(root.handlers) == 1 else None
        return only if isinstance(only, LineHandler) else None
    is_terminal = sys.stderr.isatty()
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not is_terminal)
    redaction = Redaction.of_database(settings.database_url)
    handler = LineHandler(sys.stderr, LineFormatter(redaction, as_json=as_json, colors=is_terminal))
    root.addHandler(handler)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    root.setLevel(max(level, logging.WARNING))
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    # What Python itself would print, in lines of its own.
    logging.captureWarnings(True)
    sys.excepthook = _log_the_end
    threading.excepthook = _log_a_threads_end
    return handler


def _log_the_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        _log.critical("the process ends with an error", exc_info=(kind, error, trace))


def _log_a_threads_end(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and not issubclass(ended.exc_type, SystemExit):
        name = "a thread" if ended.thread is None else f"the thread {ended.thread.name}"
        _log.error("%s ended with an error", name, exc_info=(ended.exc_type, ended.exc_value, ended.exc_traceback))
