"""Items that expire, and what steps keep by context.state.

Every stream's table gets a column `expires_at`, null for items that stay.

Revision ID: 0010
Revises: 0009
"""

from pathlib import Path

from alembic import context, op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "0010_items"
IN_ORDER = ("context_state.sql", "grant_state.sql", "lacks_expiry.sql", "make_expiring.sql", "expire_items.sql")
# Of streams that are declared the migration does it again, with their time to live; here, for those that no longer are.
ALL_STREAMS = """
select streams.make_expiring(s.table_name, null) from streams.stream s
where to_regclass(format('streams.%I', s.table_name)) is not null
  and streams.lacks_expiry(s.table_name, null) like '%has no column expires_at'
"""
# What was to expire stays.
NO_COLUMNS = """
do $$
declare
    relation text;
begin
    for relation in
        select a.attrelid::regclass::text from pg_attribute a
        join pg_class c on c.oid = a.attrelid and c.relkind in ('r', 'p') and c.relnamespace = 'streams'::regnamespace
        join streams.stream s on s.table_name = c.relname
        where a.attname = 'expires_at' and not a.attisdropped
    loop
        execute format('alter table %s drop column expires_at', relation);
    end loop;
end
$$
"""


def upgrade() -> None:
    for name in IN_ORDER:
        _execute((SQL / name).read_text())
    _execute(ALL_STREAMS)


def downgrade() -> None:
    _execute(NO_COLUMNS)
    op.execute("drop function streams.expire_items(bigint)")
    op.execute("drop function streams.make_expiring(text, double precision)")
    op.execute("drop function streams.lacks_expiry(text, double precision)")
    op.execute("drop function streams.grant_state()")
    op.execute("drop table streams.context_state")


def _execute(statement: str) -> None:
    if context.is_offline_mode():
        op.get_context().impl.static_output(statement.rstrip().removesuffix(";") + ";\n")
    else:
        # Not op.execute: it would take ":name" in a function's body for a parameter.
        op.get_bind().exec_driver_sql(statement)
