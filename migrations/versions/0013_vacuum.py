"""Removed commits are vacuumed sooner.

Revision ID: 0013
Revises: 0012
"""

from pathlib import Path

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "0013_vacuum"


def upgrade() -> None:
    op.execute((SQL / "commit.sql").read_text())


def downgrade() -> None:
    op.execute("alter table streams.commit reset (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold)")
