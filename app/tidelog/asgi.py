"""The server as delivered: a Litestar application with the plugin, behind the rules for web pages, and its own log."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from multiprocessing import parent_process
from typing import Any

from litestar import Litestar

from tidelog.config import TidelogConfig
from tidelog.descriptors import descriptors
from tidelog.logs.setup import configure
from tidelog.plugin import TidelogPlugin
from tidelog.runtime.threads import DaemonThreads
from tidelog.settings import Settings
from tidelog.store.capacity import FEED_CONNECTIONS_MAX
from tidelog.web.access import AccessLog
from tidelog.web.exposure import check_exposure
from tidelog.web.failures import exception_handlers
from tidelog.web.health import health_controller
from tidelog.web.http_protocol import RequestProtocol
from tidelog.web.openapi import openapi_config
from tidelog.web.overfull import overfull
from tidelog.web.page_rules import PageRules
from tidelog.web.pages_app import PagesApp
from tidelog.web.paths import hidden_route
from tidelog.web.steps import step_controllers

LOOP_THREADS_MAX = 32  # what asyncio takes at most for its own executor

logger = logging.getLogger("tidelog.serve")


class WholePlugin(TidelogPlugin):
    """The plugin where nothing else is served: PagesApp takes sockets, and finds the steps, at every path."""

    def route_handlers(self) -> list[Any]:
        tidelog = self.tidelog
        return [
            *step_controllers(self.endpoints, tidelog.runtime, hidden_route, tidelog.admission.callers, tidelog.at),
            *(tidelog.reads() if self.config.has_reads else ()),
            health_controller(tidelog.checks, tidelog.warnings),
        ]


def create_app(settings: Settings | None = None) -> Litestar:
    """A server for the streams and steps under `settings.steps_dir`. Nothing is connected before it starts."""
    settings = settings or Settings()
    handler = configure(settings)
    return delivered(
        TidelogConfig(settings=settings, steps_dir=settings.steps_dir),
        AccessLog(handler) if settings.logs_access else None,
        lifespan=[partial(_process, settings)],
        on_startup=[_leave_what_lives],
    )


def delivered(config: TidelogConfig, access_log: AccessLog | None = None, **options: Any) -> Litestar:
    """The application of the server as delivered, without what is the whole process's. `options` are Litestar's."""
    plugin = WholePlugin(config)
    tidelog = plugin.tidelog
    check_exposure(tidelog.settings, has_authentication=tidelog.admission.callers.has_authentication)
    return PagesApp(
        PageRules(tidelog.settings),
        tidelog.gate(access_log),
        [http for _, http in plugin.endpoints],
        access_log,
        tidelog.admission.exposure,
        route_handlers=[],
        plugins=[plugin],
        exception_handlers=exception_handlers,
        openapi_config=openapi_config(),
        request_max_body_size=tidelog.settings.body_size_max_bytes,
        logging_config=None,
        **options,
    )


@asynccontextmanager
async def _process(settings: Settings, _app: Litestar) -> AsyncIterator[None]:
    """What is the whole process's, and so not a plugin's to do."""
    # Of authors' asyncio.to_thread, too, the end of the process waits for none.
    asyncio.get_running_loop().set_default_executor(DaemonThreads(LOOP_THREADS_MAX, "tidelog-loop"))
    descriptors.prepare(settings.pool_size_max + FEED_CONNECTIONS_MAX)
    overfull.prepare(settings)
    RequestProtocol.head_size_max_bytes = settings.head_size_max_bytes
    parent = parent_process()
    if parent is not None:  # one of several workers: who started it may be killed, and then nobody would end it
        asyncio.get_running_loop().add_reader(parent.sentinel, _stop_without, parent.sentinel)
    yield
    if parent is not None:
        asyncio.get_running_loop().remove_reader(parent.sentinel)
    for handler in logging.getLogger().handlers:
        handler.flush()  # a server that ends itself by a signal leaves Python no time for it


def _stop_without(sentinel: int) -> None:
    """The process that started this worker has died."""
    asyncio.get_running_loop().remove_reader(sentinel)
    logger.error("the server that started this worker is gone: it stops, so that another can have its port")
    signal.raise_signal(signal.SIGTERM)


def _leave_what_lives() -> None:
    """What has been made by now lives as long as the process. Looking through it for garbage takes 0.1 s."""
    gc.collect()
    gc.freeze()
