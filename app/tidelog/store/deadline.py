"""A limit on how long an answer is waited for, for connections whose other end may be silently gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncpg


@contextmanager
def deadline(connection: asyncpg.Connection[Any], seconds: float) -> Iterator[None]:
    """Close the connection, and raise TimeoutError, unless what is awaited inside is done in time.

    asyncpg's own timeouts, and asyncio's, cancel the statement by a second connection, which may hang like the
    first; and what takes long for good reason (a million commits to number) would be begun anew each time. A
    statement whose client is gone runs to its end, and then its backend leaves.
    """
    passed = False

    def close() -> None:
        nonlocal passed
        passed = True
        connection.terminate()

    timer = asyncio.get_running_loop().call_later(seconds, close)
    try:
        yield
    except Exception as error:
        if passed:
            raise TimeoutError(f"no answer from the database within {seconds} s") from error
        raise
    finally:
        timer.cancel()
