"""Refreshes in batches: one row a file, one row a question.

Revision: 0005
Follows: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

IN_MYSQL = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    op.create_table(
        "songs_ai_refresh_part",
        sa.Column("part_key", sa.String(32), nullable=False),
        sa.Column("run_on", sa.Date, nullable=False, comment="in the site's time zone"),
        sa.Column("created_at", sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql"), nullable=False,
                  comment="UTC; before its questions were read"),
        sa.Column("n_questions", sa.Integer, nullable=False),
        sa.Column("file_id", sa.String(191), comment="at the provider; NULL: not known to be uploaded"),
        sa.Column("batch_id", sa.String(191), comment="at the provider; NULL: not known to be created"),
        sa.Column("status", sa.String(32), comment="how the batch ended; NULL: something is left to do"),
        sa.PrimaryKeyConstraint("part_key"),
        if_not_exists=True,
        **IN_MYSQL,
    )
    op.create_table(
        "songs_ai_refresh_question",
        sa.Column("part_key", sa.String(32), nullable=False),
        sa.Column("custom_id", sa.String(64), nullable=False, comment="the question's fingerprint"),
        sa.Column("member_id", sa.BigInteger, nullable=False),
        sa.Column("locale", sa.String(8)),
        sa.Column("taste_mark", sa.String(64), nullable=False, comment="changes with what the member likes"),
        sa.Column("shown_ids", sa.JSON, nullable=False, comment="items by handle"),
        sa.Column("outcome", sa.String(16), comment="NULL: not settled"),
        sa.PrimaryKeyConstraint("part_key", "custom_id"),
        if_not_exists=True,
        **IN_MYSQL,
    )


def downgrade() -> None:
    for table in ("refresh_question", "refresh_part"):
        op.drop_table(f"songs_ai_{table}", if_exists=True)
