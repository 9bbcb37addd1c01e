"""The queue of steps that react: jobs, parked jobs, cron ticks, and the functions that claim, retry and drop.

Revision ID: 0011
Revises: 0010
"""

from pathlib import Path

from alembic import context, op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "0011_jobs"
IN_ORDER = ("ring_workers.sql", "claim_jobs.sql", "retry_parked.sql", "drop_parked.sql", "grant_jobs.sql")


def upgrade() -> None:
    # One statement at a time is what Postgres prepares; of tables they end before an empty line.
    for statement in (SQL / "tables.sql").read_text().split(";\n\n"):
        _execute(statement)
    for name in IN_ORDER:
        _execute((SQL / name).read_text())


def downgrade() -> None:
    op.execute("drop function streams.grant_jobs()")
    op.execute("drop function streams.drop_parked(bigint, text)")
    op.execute("drop function streams.retry_parked(bigint, text)")
    op.execute(
        "drop function streams.claim_jobs(text[], integer[], integer[], boolean[], text[], integer, double precision)"
    )
    op.execute("drop function streams.ring_workers()")
    op.execute("drop table streams.step_turn, streams.step_cron, streams.step_parked, streams.step_job")


def _execute(statement: str) -> None:
    if context.is_offline_mode():
        op.get_context().impl.static_output(statement.rstrip().removesuffix(";") + ";\n")
    else:
        # Not op.execute: it would take ":name" in a function's body for a parameter.
        op.get_bind().exec_driver_sql(statement)
