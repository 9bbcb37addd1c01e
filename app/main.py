"""The server as delivered, for any ASGI server: `app.main:app`."""

import sys

from tidelog.asgi import create_app
from tidelog.logs.last_words import TOLD, last_words

try:
    app = create_app()
except TOLD as error:  # servers that load this would show a traceback
    sys.exit(last_words(error))
