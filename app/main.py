"""The server as delivered, for any ASGI server: `app.main:app`."""

from tidelog.server import create_app

app = create_app()
