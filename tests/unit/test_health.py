"""Liveness and readiness."""

from __future__ import annotations

import httpx
import pytest
from litestar import Litestar

from tidelog.feed.trouble import TABLE_IS_GONE
from tidelog.web.health import Checks, Warnings, health_controller


async def ask(checks: Checks, warnings: Warnings = dict) -> dict[str, httpx.Response]:
    app = Litestar(route_handlers=[health_controller(checks, warnings)], logging_config=None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://health") as client:
        return {path: await client.get(f"/health/{path}") for path in ("live", "ready")}


async def test_ready_is_when_every_check_is_ok() -> None:
    """200 with the checks by name."""

    async def checks() -> dict[str, str]:
        return {"database": "ok", "reader": "ok"}

    answers = await ask(checks)
    assert (answers["live"].status_code, answers["live"].json()) == (200, {"status": "live"})
    assert answers["ready"].status_code == 200
    assert answers["ready"].json() == {"status": "ready", "checks": {"database": "ok", "reader": "ok"}}


async def test_not_ready_says_what_is_wrong_and_lives_on() -> None:
    """503 for one bad check, or when the checks themselves fail; the process is alive all the same."""

    async def one_is_bad() -> dict[str, str]:
        return {"database": "connection refused", "reader": "ok"}

    async def broken() -> dict[str, str]:
        raise RuntimeError("boom")

    for checks, words in ((one_is_bad, "connection refused"), (broken, "failed")):
        answers = await ask(checks)
        assert answers["ready"].status_code == 503
        assert words in answers["ready"].text
        assert answers["live"].status_code == 200


async def test_ready_names_what_concerns_single_streams_and_serves_the_others() -> None:
    """It is in the body, and not for a balancer to act on; beside what is wrong for all it is told, too."""

    async def fine() -> dict[str, str]:
        return {"database": "ok"}

    async def broken() -> dict[str, str]:
        return {"database": "connection refused"}

    gone = {"stream job": f'{TABLE_IS_GONE}: UndefinedTableError: relation "streams.job" does not exist'}
    for checks, status in ((fine, 200), (broken, 503)):
        answers = await ask(checks, lambda: gone)
        assert answers["ready"].status_code == status
        assert answers["ready"].json()["warnings"] == {"stream job": "a table is gone. Run tidelog migrate"}


@pytest.mark.parametrize(
    ("trouble", "word"),
    [
        ('InvalidPasswordError: password authentication failed for user "secret"', "InvalidPasswordError"),
        ("ConnectionRefusedError: [Errno 111] Connect call failed ('secret', 5432)", "ConnectionRefusedError"),
        ("epoch_foreign: run scripts/adopt in secret", "epoch_foreign"),
        ("it takes no writes: secret is a standby", "it takes no writes"),
        ("not started", "not started"),
        ('connection to server at "secret", port 5432 failed: refused', "failed"),
        ("secret" * 20, "failed"),
    ],
)
async def test_strangers_are_told_a_word_and_the_log_the_rest(
    trouble: str, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No hosts, roles or databases."""

    async def one_is_bad() -> dict[str, str]:
        return {"database": trouble, "reader": "ok"}

    ready = (await ask(one_is_bad))["ready"]
    assert ready.json()["checks"] == {"database": word, "reader": "ok"}
    assert "secret" not in ready.text
    assert trouble in caplog.text


async def test_a_trouble_is_logged_when_it_begins(caplog: pytest.LogCaptureFixture) -> None:
    """Once for many looks; again when it comes again."""
    now = {"database": "ok"}

    async def checks() -> dict[str, str]:
        return now

    app = Litestar(route_handlers=[health_controller(checks)], logging_config=None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://health") as client:
        for said in "Lost: host 1", "Lost: host 2", "ok", "Lost: host 3":
            now["database"] = said
            assert (await client.get("/health/ready")).status_code == (200 if said == "ok" else 503)
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("tidelog")]
    assert logged == ["readiness: database: Lost: host 1", "readiness: database: Lost: host 3"]
