"""Whether this process lives, and whether it can serve.

Anybody may ask, so what is wrong is said by a word: database errors name hosts and roles. The log has the rest.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping

from litestar import Controller, Response, get

Warnings = Callable[[], dict[str, str]]  # name -> what is wrong, but keeps nothing else from being served
Checks = Callable[[], Awaitable[dict[str, str]]]  # name -> "ok", or what is wrong

CHECKS_TIMEOUT_SECONDS = 5  # longer than any single check's own; orchestrators give up after 1 to 10

# What a trouble begins with, before its details: a code of ours, an error's class, or our own words.
_WORD = re.compile(r"[A-Za-z0-9_ .]{1,60}", re.ASCII)

logger = logging.getLogger(__name__)


class Words:
    """Troubles as strangers are told of them. Each is told to the log once, when it begins."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def of(self, troubles: Mapping[str, str]) -> dict[str, str]:
        words = {name: self._word(trouble) for name, trouble in troubles.items()}
        for name, word in words.items():
            if word not in ("ok", self._told.get(name)):
                logger.warning("readiness: %s: %s", name, troubles[name])
        self._told.update(words)
        return words

    @staticmethod
    def _word(trouble: str) -> str:
        word = trouble.partition(":")[0]
        return word if _WORD.fullmatch(word) else "failed"


def health_controller(checks: Checks, warnings: Warnings = dict, below: str = "/") -> type[Controller]:
    """`/health/live` and `/health/ready`, `below` a path; the latter answers 503 unless each of `checks` says "ok"."""
    told, told_beside = Words(), Words()

    class HealthController(Controller):
        path = f"{below.rstrip('/')}/health"
        tags = ("health",)

        @get("/live", summary="The process answers")
        async def live(self) -> dict[str, str]:
            return {"status": "live"}

        @get("/ready", summary="The process can serve: every check is ok (else 503)")
        async def ready(self) -> Response[dict[str, object]]:
            try:
                async with asyncio.timeout(CHECKS_TIMEOUT_SECONDS):
                    results = await checks()
            except TimeoutError:
                results = {"checks": f"no answer within {CHECKS_TIMEOUT_SECONDS} s"}
            except Exception as error:
                results = {"checks": f"failed: {type(error).__name__}: {error}"}
            results = told.of(results)
            is_ready = all(result == "ok" for result in results.values())
            found = told_beside.of(warnings())
            return Response(
                {
                    "status": "ready" if is_ready else "not ready",
                    "checks": results,
                    **({"warnings": found} if found else {}),
                },
                status_code=200 if is_ready else 503,
                headers={"cache-control": "no-store"},
            )

    return HealthController
