"""The last run of each scheduled task.

Revision: 0007
Follows: 0006
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    instant = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")
    op.create_table(
        "songs_ai_task_run",
        sa.Column("task", sa.String(32), nullable=False),
        sa.Column("covered_to", instant, nullable=False, comment="UTC; its scheduled times until then are done with"),
        sa.Column("fence", sa.BigInteger, nullable=False, comment="term of the last leader that took over"),
        sa.Column("started_at", instant, comment="UTC; NULL: has not run yet"),
        sa.Column("ended_at", instant, comment="UTC"),
        sa.Column("outcome", sa.String(16), comment="NULL: under way, or its leader died"),
        sa.Column("n_tries", sa.Integer, nullable=False, comment="how often this run was begun"),
        sa.Column("worker", sa.String(191), nullable=False),
        sa.Column("detail", sa.String(1000), nullable=False, comment="the last lines that it wrote"),
        sa.PrimaryKeyConstraint("task"),
        if_not_exists=True,
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )


def downgrade() -> None:
    op.drop_table("songs_ai_task_run", if_exists=True)
