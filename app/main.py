"""The server as delivered, for any ASGI server: `app.main:app`."""

import sys

from tidelog.logs.last_words import TOLD, last_words
from tidelog.server import create_app

try:
    app = create_app()
except TOLD as error:  # servers that load this would show a traceback
    sys.exit(last_words(error))
