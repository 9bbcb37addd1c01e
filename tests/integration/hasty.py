"""RequestProtocol for tests that can't wait: `--http tests.integration.hasty:HastyProtocol`."""

from tidelog.web.http_protocol import RequestProtocol


class HastyProtocol(RequestProtocol):
    look_seconds = 1.5
