"""A stream's new schema is compared with the items that are there: what doesn't fit is told, and not taken."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner
from litestar import Litestar
from litestar.cli._utils import LitestarEnv, LitestarGroup
from pydantic import BaseModel, field_validator

from tests.harness import Server, Sql, StepsFolder, free_port, migrate
from tidelog import TidelogConfig, TidelogPlugin
from tidelog.errors import DeclarationError, StreamTableError
from tidelog.migrate import upgrade
from tidelog.model.stream import Stream
from tidelog.settings import Settings
from tidelog.store import schema_check

OLD: dict[str, Any] = {"type": "object"}
NEW: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "string"}}}
STORED = "select schema from streams.stream where name = 'note'"
ADD = (
    "insert into streams.note (group_id, id, data) "
    "select 'g', i::text, '{\"n\": %s}' from generate_series(1, $1::int) i"
)


async def take(url: str, schema: Any, *, accept: tuple[str, ...] = ()) -> None:
    """Migrate for the stream `note` with this schema, as `tidelog migrate` does."""
    await asyncio.to_thread(upgrade, Settings(database_url=url), [Stream("note", schema)], accept)


async def refusal(url: str, schema: Any) -> str:
    with pytest.raises(StreamTableError) as refused:
        await take(url, schema)
    return str(refused.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
        {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False},  # the id may be
        {"type": "object", "description": "text"},
    ],
)
async def test_a_schema_that_all_items_fit_is_taken_in_silence(
    url: str, sql: Sql, schema: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the change is, as long as it holds of what is stored."""
    with caplog.at_level(logging.INFO, "tidelog.migrations"):
        await take(url, schema)
    assert await sql.fetchval(STORED) == schema
    assert not [record for record in caplog.records if record.name == "tidelog.migrations"]


async def test_a_schema_that_items_violate_is_refused_with_how_many_which_and_why(url: str, sql: Sql) -> None:
    """The first few are named; the database keeps the schema of before, and no item is touched."""
    await sql.execute(ADD % 1, 7)
    before = await sql.fetch("select xmin::text, * from streams.note")
    said = await refusal(url, NEW)
    assert "stream note: its schema has changed, and 8 of its 8 items, which fit" in said
    assert """group 'g', id 'a': /n: 1 is not of type "string"; group 'g', id '1': /n: 1""" in said
    assert said.count("group 'g', id") == schema_check.SHOWN_MAX and "; ..." in said
    assert "`tidelog migrate --accept note`" in said
    assert await sql.fetchval(STORED) == OLD
    assert await sql.fetch("select xmin::text, * from streams.note") == before
    await sql.execute('update streams.note set data = \'{"n": "1"}\'')
    await take(url, NEW)
    assert await sql.fetchval(STORED) == NEW


async def test_an_accepted_schema_is_taken_and_the_items_stay(url: str, sql: Sql) -> None:
    """What was accepted once holds no later change up; the name of another stream is no yes."""
    with pytest.raises(DeclarationError, match="there is no stream 'job'; there are: note"):
        await take(url, NEW, accept=("job",))
    assert await sql.fetchval(STORED) == OLD
    await take(url, NEW, accept=("note",))
    assert await sql.fetchval(STORED) == NEW
    assert await sql.fetchval("select data from streams.note") == {"id": "a", "n": 1}
    stricter = {**NEW, "properties": {**NEW["properties"], "title": {"type": "string"}}}
    await take(url, stricter)
    assert await sql.fetchval(STORED) == stricter


async def test_items_that_never_fitted_do_not_hold_a_change_up(url: str, sql: Sql) -> None:
    """SQL isn't checked: what it left behind is not the new schema's doing."""
    await take(url, NEW, accept=("note",))
    await sql.execute(ADD % '"text"', 2)
    assert "1 of its 3 items" not in await refusal(url, {**NEW, "required": ["more"]})
    assert "2 of its 3 items" in await refusal(url, {**NEW, "required": ["more"]})


async def test_a_refused_stream_hinders_no_other(url: str, sql: Sql, note_steps: StepsFolder) -> None:
    """With `alembic`, too: the others are made, this one's table is made good, and `-x accept=` is the yes."""
    note_steps.write("note_stream.py", f'config = {{"name": "note", "schema": {NEW!r}}}')
    note_steps.write("task_stream.py", 'config = {"name": "task", "schema": {"type": "object"}}')
    await sql.execute("drop view streams.note_history")
    with pytest.raises(RuntimeError, match="1 of its 1 items") as refused:
        await asyncio.to_thread(migrate, url, note_steps.path)
    assert "made streams.task for stream task" in str(refused.value)
    assert await sql.fetchval("select to_regclass('streams.note_history')") is not None
    assert await sql.fetchval(STORED) == OLD
    await asyncio.to_thread(migrate, url, note_steps.path, "-x", "accept=note", "upgrade", "head")
    assert await sql.fetchval(STORED) == NEW


async def test_an_applications_command_takes_the_yes_as_well(url: str, sql: Sql) -> None:
    """`litestar tidelog migrate --accept note`, and `plugin.migrate(["note"])`."""
    config = TidelogConfig(database_url=url, streams=[Stream("note", NEW)])
    app = Litestar(plugins=[TidelogPlugin(config)], openapi_config=None)

    group = LitestarGroup("litestar")
    for plugin in app.plugins.cli:
        plugin.on_cli_init(group)

    def run(*arguments: str) -> Any:
        command = ["tidelog", "migrate", *arguments]
        return CliRunner().invoke(group, command, obj=LitestarEnv("", app, Path()))

    assert "1 of its 1 items" in (await asyncio.to_thread(run)).output
    assert "there is no stream 'job'" in (await asyncio.to_thread(run, "--accept", "job")).output
    done = await asyncio.to_thread(run, "--accept", "note")
    assert done.exit_code == 0, done.output
    assert await sql.fetchval(STORED) == NEW


async def test_of_a_large_table_a_sample_is_looked_at(
    url: str, sql: Sql, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Bounded, and said so: how many of how many."""
    monkeypatch.setattr(schema_check, "ITEMS_MAX", 300)
    await sql.execute(ADD % 1, 5000)
    said = await refusal(url, NEW)
    assert "items that were looked at (of about " in said and "of its" not in said
    with caplog.at_level(logging.INFO, "tidelog.migrations"):
        await take(url, {**OLD, "required": ["n"]})
    assert "took the new schema of stream note: all fit of the " in caplog.text


async def test_the_look_ends_in_time(url: str, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large or slow the items are: what there was time for is what is told."""
    monkeypatch.setattr(schema_check, "SECONDS_MAX", 0)
    monkeypatch.setattr(schema_check, "BATCH_ITEMS_MAX", 2)
    await sql.execute(ADD % 1, 9)
    assert "2 of the 2 items that were looked at (of about 10)" in await refusal(url, NEW)


async def test_an_item_that_can_t_be_read_is_told_and_no_obstacle(
    url: str, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    """All others are checked."""
    await sql.execute(ADD % 1, 3)
    await sql.execute("create cast (bytea as jsonb) without function")
    await sql.execute("alter table streams.note disable trigger all")
    await sql.execute(r"update streams.note set data = '\x0100005001000000ff'::bytea::jsonb where id = '2'")
    await sql.execute("alter table streams.note enable trigger all")
    await sql.execute('alter table streams.note enable always trigger "~tidelog_complete"')
    await sql.execute("alter table streams.note enable always trigger tidelog_record")
    await sql.execute("alter table streams.note enable always trigger tidelog_refuse_truncate")
    assert "3 of its 4 items" in await refusal(url, NEW)
    with caplog.at_level(logging.INFO, "tidelog.migrations"):
        await take(url, {**OLD, "required": ["n"]})
    assert "1 items of stream note can't be read" in caplog.text


class Note(BaseModel):
    """With what JSON Schema can't say."""

    n: int

    @field_validator("n")
    @classmethod
    def even(cls, n: int) -> int:
        if n == 13:
            raise RuntimeError("a bug")
        assert n % 2 == 0, "must be even"
        return n


async def test_a_class_s_validators_are_asked_too(url: str, sql: Sql) -> None:
    """Also one that fails by its own fault."""
    await sql.execute("insert into streams.note (group_id, id, data) values ('g', 'b', '{\"n\": 13}')")
    said = await refusal(url, Note)
    assert "/n: Assertion failed, must be even" in said and "RuntimeError: a bug" in said


async def test_of_two_at_once_one_is_told_like_the_other(url: str, sql: Sql, note_steps: StepsFolder) -> None:
    """They wait for each other: neither takes the schema behind the other's back."""
    note_steps.write("note_stream.py", f'config = {{"name": "note", "schema": {NEW!r}}}')
    done = await asyncio.gather(
        *(asyncio.to_thread(migrate, url, note_steps.path) for _ in range(2)), return_exceptions=True
    )
    assert all("1 of its 1 items" in str(one) for one in done)
    assert await sql.fetchval(STORED) == OLD


@pytest.mark.usefixtures("sql")
async def test_a_table_that_is_gone_holds_no_schema_up(url: str) -> None:
    """It is made anew, and there is nothing that could violate."""
    connection = await asyncpg.connect(url)
    await connection.execute("drop table streams.note cascade")
    await take(url, NEW)
    assert await connection.fetchval("select schema::text from streams.stream") == await connection.fetchval(
        "select $1::text::jsonb::text", '{"type": "object", "properties": {"n": {"type": "string"}}}'
    )
    await connection.close()


async def test_a_server_does_not_start_on_a_refused_schema_and_does_with_the_yes(
    url: str, sql: Sql, note_steps: StepsFolder
) -> None:
    """`tidelog serve --accept note`, which migrates; as `scripts/serve --accept note`."""
    note_steps.write("note_stream.py", f'config = {{"name": "note", "schema": {NEW!r}}}')
    serve = ["-m", "tidelog.cli", "serve"]
    refused = Server(url, note_steps.path, {}, free_port(), serve)
    with pytest.raises(RuntimeError, match=r"ended with 1:\n.*stream_table_unfit(?s:.*)1 of its 1 items"):
        await refused.wait_until_ready()
    server = Server(url, note_steps.path, {}, free_port(), [*serve, "--accept", "note"])
    try:
        await server.wait_until_ready()
        assert await sql.fetchval(STORED) == NEW
    finally:
        await server.stop()
