"""What a database has in the schema `streams`, to be compared: but for the log's partitions, which come and go."""

from __future__ import annotations

from typing import Any

import asyncpg

OBJECTS = """
select 'relation' as kind, c.relname as name, c.oid::text as identity,
       c.relkind::text || c.relpersistence::text || coalesce(pg_get_viewdef(c.oid), '') as definition
from pg_class c where c.relnamespace = to_regnamespace('streams') and c.relname not like 'change~%'
union all
select 'function', p.oid::regprocedure::text, p.oid::text,
       pg_get_functiondef(p.oid) || replace(coalesce(p.proacl::text, ''), pg_get_userbyid(p.proowner), 'owner')
from pg_proc p where p.pronamespace = to_regnamespace('streams')
union all
select 'trigger', t.tgrelid::regclass || '.' || t.tgname, t.oid::text, pg_get_triggerdef(t.oid) || t.tgenabled::text
from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace = to_regnamespace('streams')
union all
select 'constraint', k.conrelid::regclass || '.' || k.conname, k.oid::text, pg_get_constraintdef(k.oid)
from pg_constraint k left join pg_class c on c.oid = k.conrelid
where k.connamespace = to_regnamespace('streams') and c.relname not like 'change~%'
union all
select 'column', a.attrelid::regclass || '.' || a.attname, a.attrelid || '.' || a.attnum,
       format_type(a.atttypid, a.atttypmod) || a.attnotnull || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
from pg_attribute a
join pg_class c on c.oid = a.attrelid
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where c.relnamespace = to_regnamespace('streams') and a.attnum > 0 and not a.attisdropped
  and c.relkind in ('r', 'p', 'v') and c.relname not like 'change~%'
"""
SCHEMAS = "select nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'"


async def objects_of(sql: asyncpg.Connection[Any]) -> dict[tuple[str, str], tuple[str, str]]:
    """(kind, name) to (identity, definition). The identity of what was dropped and made again is another one."""
    return {(row["kind"], row["name"]): (row["identity"], row["definition"]) for row in await sql.fetch(OBJECTS)}


async def definitions_of(sql: asyncpg.Connection[Any]) -> dict[tuple[str, str], str]:
    """(kind, name) to definition."""
    return {key: definition for key, (_, definition) in (await objects_of(sql)).items()}


async def schemas_of(sql: asyncpg.Connection[Any]) -> set[str]:
    return {row["nspname"] for row in await sql.fetch(SCHEMAS)}
