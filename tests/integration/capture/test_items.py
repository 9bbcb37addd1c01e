"""What an item is, whoever writes it: its id, its version, and what is refused."""

from __future__ import annotations

import random
from typing import Any

import asyncpg
import pytest

from tests.harness import Sql
from tests.integration.capture.log import DELETE, INSERT, ROW, UPDATE, log_of

KEY_LENGTH_MAX_BYTES = 1024


@pytest.mark.parametrize("data", [{}, {"id": "b"}, {"id": 7}, {"id": None}, {"id": ["a"]}])
async def test_data_always_carries_the_id_of_its_row(sql: Sql, group: str, data: Any) -> None:
    """As text, whatever the writer had there; in the table and in the log, on insert and on update."""
    await sql.execute(INSERT, group, "7", {"n": 1, **data})
    await sql.execute(UPDATE, group, "7", {"n": 2, **data})
    assert (await sql.fetchrow(ROW, group, "7"))["data"] == {"id": "7", "n": 2}
    logged = [row["data"] for row in await sql.fetch("select data from streams.change where group_id = $1", group)]
    assert logged == [{"id": "7", "n": 1}, {"id": "7", "n": 2}]


async def test_the_version_counts_an_items_updates(sql: Sql, group: str) -> None:
    """From 1, whatever a writer says; a re-created item begins anew. The time of creation stays."""
    await sql.execute(INSERT, group, "a", {"n": 0})
    created = (await sql.fetchrow(ROW, group, "a"))["created_at"]
    for n in (1, 2, 3):
        await sql.execute(
            "update streams.chat_message set data = $2, version = 100, created_at = now(), updated_at = '2000-01-01' "
            "where group_id = $1",
            group,
            {"n": n},
        )
    row = await sql.fetchrow(ROW, group, "a")
    assert (row["version"], row["created_at"]) == (4, created)
    assert row["updated_at"] > created
    await sql.execute(DELETE, group, "a")
    await sql.execute(INSERT, group, "a", {})
    assert (await sql.fetchrow(ROW, group, "a"))["version"] == 1


@pytest.mark.parametrize("size", [0, KEY_LENGTH_MAX_BYTES + 1])
@pytest.mark.parametrize("letter", ["k", "é"])
async def test_keys_of_a_wrong_length_are_refused(sql: Sql, group: str, size: int, letter: str) -> None:
    """1 to 1024 bytes, not characters; for ids and groups, on insert and on update."""
    wrong = letter * (size // len(letter.encode()) + size % len(letter.encode()))
    await sql.execute(INSERT, group, "a", {})
    for keys in ((wrong, "a"), (group, wrong)):
        with pytest.raises(asyncpg.CheckViolationError):
            await sql.execute(INSERT, *keys, {})
    for column in ("id", "group_id"):
        with pytest.raises(asyncpg.CheckViolationError):
            await sql.execute(f"update streams.chat_message set {column} = $2 where group_id = $1", group, wrong)


async def test_the_longest_keys_fit(sql: Sql, seed: int) -> None:
    """Two keys of 1024 bytes that can't be compressed are within what an index entry holds."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    keys = [chance.randbytes(KEY_LENGTH_MAX_BYTES // 2).hex() for _ in range(2)]
    await sql.execute(INSERT, *keys, {})
    await sql.execute(DELETE, *keys)
    assert [op for op, *_ in await log_of(sql, keys[0])] == ["create", "delete"]


@pytest.mark.parametrize("data", ["[1]", "5", '"text"', "null", "true"])
async def test_data_that_is_no_object_is_refused(sql: Sql, group: str, data: str) -> None:
    """On insert and on update."""
    with pytest.raises(asyncpg.CheckViolationError):
        await sql.execute(f"insert into streams.chat_message (group_id, id, data) values ($1, 'a', '{data}')", group)
    await sql.execute(INSERT, group, "a", {})
    with pytest.raises(asyncpg.CheckViolationError):
        await sql.execute(f"update streams.chat_message set data = '{data}' where group_id = $1", group)
    assert [op for op, *_ in await log_of(sql, group)] == ["create"]


async def test_a_later_trigger_cant_make_data_of_another_kind(sql: Sql, group: str) -> None:
    """What is checked is what is stored, after all that other people's triggers did to it."""
    await sql.execute(
        "create function pg_temp.spoil() returns trigger language plpgsql "
        "as $$ begin new.data := '[1]'; return new; end $$"
    )
    await sql.execute(INSERT, group, "a", {})
    async with sql.transaction():
        await sql.execute(
            "create trigger zz before insert or update on streams.chat_message "
            "for each row execute function pg_temp.spoil()"
        )
        for statement, *arguments in ((INSERT, group, "b", {}), ("update streams.chat_message set data = '{}'",)):
            with pytest.raises(asyncpg.CheckViolationError):
                async with sql.transaction():
                    await sql.execute(statement, *arguments)
        await sql.execute("drop trigger zz on streams.chat_message")
    assert [op for op, *_ in await log_of(sql, group)] == ["create"]


async def test_nothing_is_refused_for_data_and_keys(sql: Sql, group: str) -> None:
    """A NULL in any of the three columns."""
    for values in ((None, "a", {}), (group, None, {})):
        with pytest.raises(asyncpg.NotNullViolationError):
            await sql.execute(INSERT, *values)
    with pytest.raises(asyncpg.NotNullViolationError):
        await sql.execute("insert into streams.chat_message (group_id, id) values ($1, 'a')", group)


async def test_the_nul_character_is_refused(sql: Sql, group: str) -> None:
    """By Postgres itself, in keys and in data: nothing that can't be sent comes into the feed."""
    for keys in (("\0", "a"), (group, "a\0")):
        with pytest.raises(asyncpg.CharacterNotInRepertoireError):
            await sql.execute(INSERT, *keys, {})
    with pytest.raises(asyncpg.UntranslatableCharacterError):
        await sql.execute(INSERT, group, "a", {"text": "\0"})
    assert await log_of(sql, group) == []
