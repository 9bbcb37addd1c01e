"""Whether this process lives, and whether it can serve."""

import asyncio
from collections.abc import Awaitable, Callable

from litestar import Controller, Response, get

Warnings = Callable[[], dict[str, str]]  # name -> what is wrong, but keeps nothing else from being served
Checks = Callable[[], Awaitable[dict[str, str]]]  # name -> "ok", or what is wrong

CHECKS_TIMEOUT_SECONDS = 5  # longer than any single check's own; orchestrators give up after 1 to 10


def health_controller(checks: Checks, warnings: Warnings = dict) -> type[Controller]:
    """`/health/live` and `/health/ready`; the latter answers 503 unless each of `checks` says "ok"."""

    class HealthController(Controller):
        path = "/health"
        tags = ("health",)

        @get("/live", operation_id="live", summary="The process answers")
        async def live(self) -> dict[str, str]:
            return {"status": "live"}

        @get("/ready", operation_id="ready", summary="The process can serve: every check is ok (else 503)")
        async def ready(self) -> Response[dict[str, object]]:
            try:
                async with asyncio.timeout(CHECKS_TIMEOUT_SECONDS):
                    results = await checks()
            except TimeoutError:
                results = {"checks": f"no answer within {CHECKS_TIMEOUT_SECONDS} s"}
            except Exception as error:
                results = {"checks": f"failed: {type(error).__name__}: {error}"}
            is_ready = all(result == "ok" for result in results.values())
            found = warnings()
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
