"""Where the migrations are: those that are installed with the library, in a checkout as in a wheel."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from alembic.config import Config


def alembic_config(**attributes: Any) -> Config:
    """As alembic.ini has it, which is the checkout's. `attributes` are for migrations/env.py."""
    spec = find_spec("tidelog.migrations")
    assert spec is not None and spec.submodule_search_locations  # noqa: S101 - installed with this file
    config = Config(attributes=attributes)
    config.set_main_option("script_location", spec.submodule_search_locations[0].replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
