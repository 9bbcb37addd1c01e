"""What a statement changes is in the log, whoever writes and however."""

from __future__ import annotations

import asyncpg
import pytest

from tests.harness import Sql
from tests.integration.capture.log import DELETE, INSERT, UPDATE, log_of


async def test_every_operation_is_logged_as_it_was(sql: Sql, group: str) -> None:
    """A create and an update with the item as it is then, a delete with the item as it was."""
    await sql.execute(INSERT, group, "a", {"n": 1})
    await sql.execute(UPDATE, group, "a", {"n": 2})
    await sql.execute(DELETE, group, "a")
    assert await log_of(sql, group) == [
        ("create", "a", 1, {"n": 1}),
        ("update", "a", 2, {"n": 2}),
        ("delete", "a", 2, {"n": 2}),
    ]


@pytest.mark.parametrize("clause", ["do update set data = excluded.data", "do nothing"])
async def test_an_upsert_is_logged_as_what_it_did(sql: Sql, group: str, clause: str) -> None:
    """Create if the row was not there; update, or nothing, if it was."""
    upsert = f"{INSERT} on conflict (group_id, id) {clause}"
    await sql.execute(upsert, group, "a", {"n": 1})
    await sql.execute(upsert, group, "a", {"n": 2})
    updated = [("update", "a", 2, {"n": 2})] if "update" in clause else []
    assert await log_of(sql, group) == [("create", "a", 1, {"n": 1}), *updated]


async def test_a_key_that_moves_is_a_delete_and_a_create(sql: Sql, group: str) -> None:
    """By its id, its group, or both; the item goes with the old id and comes with the new one."""
    await sql.execute(INSERT, group, "a", {"n": 1})
    await sql.execute("update streams.chat_message set id = 'b', group_id = $1 || ' new' where group_id = $1", group)
    assert await log_of(sql, group) == [("create", "a", 1, {"n": 1}), ("delete", "a", 1, {"n": 1})]
    assert await log_of(sql, f"{group} new") == [("create", "b", 2, {"n": 1})]
    data = await sql.fetchval("select data from streams.change where group_id = $1 || ' new'", group)
    assert data == {"id": "b", "n": 1}


async def test_keys_that_change_places_are_all_logged(sql: Sql, group: str) -> None:
    """Rows whose ids move along in one statement: the log folds to the table."""
    await sql.execute("alter table streams.chat_message drop constraint chat_message_pkey")
    await sql.execute("alter table streams.chat_message add primary key (group_id, id) deferrable")
    try:
        for id in ("1", "2", "3"):
            await sql.execute(INSERT, group, id, {"was": id})
        async with sql.transaction():
            await sql.execute("set constraints all deferred")
            await sql.execute("update streams.chat_message set id = (id::int % 3 + 1)::text where group_id = $1", group)
    finally:
        await sql.execute("alter table streams.chat_message drop constraint chat_message_pkey")
        await sql.execute("alter table streams.chat_message add primary key (group_id, id)")
    changes = (await log_of(sql, group))[3:]
    gone = [id for op, id, _, _ in changes if op == "delete"]
    come = {id: data["was"] for op, id, _, data in changes if op == "create"}
    assert sorted(gone) == ["1", "2", "3"]
    assert come == {"2": "1", "3": "2", "1": "3"}


@pytest.mark.parametrize(
    "assignment", ["data = data", "data = '{\"n\": 1.0}'", "version = 9", "created_at = now() - interval '1 day'"]
)
async def test_an_update_that_changes_nothing_is_nothing(sql: Sql, group: str, assignment: str) -> None:
    """No change is logged, and the row keeps its version, its times and the text of its data."""
    await sql.execute(INSERT, group, "a", {"n": 1})
    before = await sql.fetchrow("select *, data::text as text from streams.chat_message where group_id = $1", group)
    await sql.execute(f"update streams.chat_message set {assignment} where group_id = $1", group)
    assert await log_of(sql, group) == [("create", "a", 1, {"n": 1})]
    after = await sql.fetchrow("select *, data::text as text from streams.chat_message where group_id = $1", group)
    assert after == before


async def test_what_a_foreign_key_deletes_is_logged(sql: Sql, group: str) -> None:
    """A stream's table may refer to tables of yours; what is deleted by cascade is seen like any delete."""
    await sql.execute("create table room (name text primary key)")
    await sql.execute("insert into room values ($1)", group)
    await sql.execute(INSERT, group, "a", {})
    await sql.execute(
        "alter table streams.chat_message add constraint in_room "
        "foreign key (group_id) references room on delete cascade not valid"
    )
    await sql.execute("delete from room")
    await sql.execute("alter table streams.chat_message drop constraint in_room")
    await sql.execute("drop table room")
    assert [op for op, *_ in await log_of(sql, group)] == ["create", "delete"]


async def test_writes_through_a_view_and_by_a_cursor_are_logged(sql: Sql, group: str) -> None:
    """Whatever ends as a write of the table's rows."""
    await sql.execute("create view room_view as select group_id, id, data from streams.chat_message")
    await sql.execute("insert into room_view values ($1, 'a', '{}')", group)
    async with sql.transaction():
        await sql.execute(
            f"declare here cursor for select * from streams.chat_message where group_id = '{group}' for update"
        )
        await sql.execute("fetch here")
        await sql.execute("update streams.chat_message set data = '{\"n\": 1}' where current of here")
    await sql.execute("drop view room_view")
    assert [op for op, *_ in await log_of(sql, group)] == ["create", "update"]


async def test_copy_and_apply_mode_are_logged(sql: Sql, group: str) -> None:
    """COPY, with the ordinary triggers off as in logical replication's apply: ids are completed there, too."""
    await sql.execute("set session_replication_role = replica")
    await sql.copy_records_to_table(
        "chat_message", schema_name="streams", columns=["group_id", "id", "data"], records=[(group, "a", {"n": 1})]
    )
    await sql.execute(UPDATE, group, "a", {"n": 2})
    await sql.execute(DELETE, group, "a")
    data = [row["data"] for row in await sql.fetch("select data from streams.change where group_id = $1", group)]
    assert data == [{"id": "a", "n": 1}, {"id": "a", "n": 2}, {"id": "a", "n": 2}]


@pytest.mark.parametrize("role_setting", ["origin", "replica"])
async def test_truncate_is_refused(sql: Sql, group: str, role_setting: str) -> None:
    """Alone, with other tables, or by cascade; with a hint that can be run."""
    await sql.execute(INSERT, group, "a", {})
    await sql.execute(f"set session_replication_role = {role_setting}")
    with pytest.raises(asyncpg.FeatureNotSupportedError) as refused:
        await sql.execute("truncate streams.chat_message")
    hint = refused.value.hint
    assert hint == "Use DELETE FROM streams.chat_message."
    async with sql.transaction():
        await sql.execute(hint.removeprefix("Use ").removesuffix("."))
    assert [op for op, *_ in await log_of(sql, group)] == ["create", "delete"]
