"""Group roles: who migrates, who serves, who writes, who reads. The functions that make them and grant their rights.

They are called at the end of every migration (env.py): so streams that come later, and databases that were restored
without the roles, get their rights, too.

Revision ID: 0005
Revises: 0004
"""

from pathlib import Path

from alembic import context, op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "0005_roles"
IN_ORDER = ("has_rights.sql", "hand_over.sql", "grant_roles.sql")


def upgrade() -> None:
    for name in IN_ORDER:
        _execute((SQL / name).read_text())


def downgrade() -> None:
    # The roles are the cluster's, and may have members; the rights in this database do no harm.
    op.execute("drop function streams.grant_roles()")
    op.execute("drop function streams.hand_over()")
    op.execute("drop function streams.has_rights(text)")


def _execute(statement: str) -> None:
    if context.is_offline_mode():
        op.get_context().impl.static_output(statement.rstrip().removesuffix(";") + ";\n")
    else:
        # Not op.execute: it would take ":name" in a function's body for a parameter.
        op.get_bind().exec_driver_sql(statement)
