"""Fixtures of the step tests."""

from collections.abc import AsyncIterator

import pytest

from tests.harness import Databases
from tests.integration.step_floor import FloorTemplate, make_floor_template


@pytest.fixture(scope="session")
async def floor_template(databases: Databases) -> AsyncIterator[FloorTemplate]:
    async with make_floor_template(databases) as template:
        yield template
