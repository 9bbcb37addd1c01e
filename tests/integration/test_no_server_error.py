"""schemathesis over the OpenAPI document: whatever is sent to a step, the server's answer is never its own fault.

The steps are the example's, and a kit of steps that hand on what they get: body, query, path. Requests are made by the
document, and against it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from tests.conftest import server_starter
from tests.harness import HTTP_TIMEOUT_SECONDS, ROOT, Databases, Server
from tidelog.runtime.discovery import discover

EXAMPLE = ROOT / "app/steps"
LEAVES = st.none() | st.booleans() | st.floats() | st.text(max_size=10) | st.integers(-(10**30), 10**30)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
).map(lambda value: json.dumps(value).encode())
QUERIES = st.dictionaries(st.text(max_size=5) | st.just("group"), st.text(max_size=20), max_size=3)
# Where the document says nothing of a body.
TYPES = ["application/json", "text/plain", "text/plain; charset=utf-16", "multipart/form-data", "application/x-nothing"]
BODIES = st.binary(max_size=100) | st.text(max_size=50).map(lambda text: text.encode(errors="surrogatepass")) | JSON
REQUESTS = 20  # of each kind, to each operation
REQUESTS_ANSWERED_SLOWLY = 2  # an answer word by word takes two seconds

KIT = ROOT / "tests/integration/fuzzed_steps"
OF_THE_SERVER = ["HealthLiveLive", "HealthReadyReady", "ListStreams", "ListGroups", "ReadItems", "ReadHistory"]
NAMES = [*OF_THE_SERVER, *(step.name for folder in (EXAMPLE, KIT) for step in discover(folder).steps)]


@pytest.fixture(scope="module")
async def server(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """Of all these steps."""
    folder = tmp_path_factory.mktemp("steps")
    for steps in (EXAMPLE, KIT):
        shutil.copytree(steps, folder, dirs_exist_ok=True)
    url = await databases.create()
    try:
        async with server_starter(url) as start:
            yield await start(folder)
    finally:
        await databases.drop(url)


@pytest.fixture(scope="module")
async def operations(server: Server) -> dict[str, Any]:
    """Those of the server's own document, by their steps' names."""
    schema = await asyncio.to_thread(schemathesis.openapi.from_url, f"{server.url}/schema/openapi.json")
    found = [result.ok() for result in schema.get_all_operations()]
    return {operation.definition.raw["operationId"]: operation for operation in found}


async def test_the_document_has_all_that_is_tried_here_and_nothing_else(operations: dict[str, Any]) -> None:
    """So that nothing is left out below."""
    assert sorted(operations) == sorted(NAMES)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["as it says", "otherwise"])
@pytest.mark.parametrize("name", NAMES)
async def test_no_request_makes_a_server_error(
    server: Server, operations: dict[str, Any], name: str, mode: GenerationMode
) -> None:
    """As the document says it, and otherwise; with any query, too."""
    operation = operations[name]
    has_schema = bool(operation.body)
    if not has_schema:
        mode = GenerationMode.POSITIVE  # every path, which is text, is as it says

    @settings(
        max_examples=REQUESTS_ANSWERED_SLOWLY if name == "Ask" else REQUESTS,
        suppress_health_check=list(HealthCheck),
        derandomize=settings.default.derandomize,
        deadline=None,
    )
    @given(operation.as_strategy(generation_mode=mode), QUERIES, st.sampled_from(TYPES), BODIES)
    def send(case: Any, query: dict[str, str], type: str, body: bytes) -> None:
        case.query = {**(case.query or {}), **query}
        if not has_schema:
            case.headers = {**(case.headers or {}), "content-type": type}
        raw = {} if has_schema else {"data": body}
        answer = case.call(base_url=server.url, timeout=HTTP_TIMEOUT_SECONDS, **raw)
        assert answer.status_code < 500, f"{answer.status_code} {answer.text}\n{case.as_curl_command()}"

    await asyncio.to_thread(send)
