"""Fixtures of the step tests, and of those of the log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.harness import Databases
from tests.integration.sequencer_fixtures import Log, connected
from tests.integration.step_fixtures import StepTemplate, make_step_template
from tidelog.store.log import FEED_SETTINGS


@pytest.fixture(scope="session")
async def step_template(databases: Databases) -> AsyncIterator[StepTemplate]:
    async with make_step_template(databases) as template:
        yield template


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[Log]:
    async with Log.open(database_url) as log:
        yield log


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """One that is set up as the feed's are."""
    async with connected(database_url, **FEED_SETTINGS) as connection:
        yield connection
