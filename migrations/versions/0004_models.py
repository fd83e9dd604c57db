"""Fitted models: one row a version, its bytes in blocks.

Revision: 0004
Follows: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

IN_MYSQL = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    op.create_table(
        "songs_ai_model",
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql"), nullable=False,
                  comment="UTC"),
        sa.Column("active", sa.Boolean, nullable=False, comment="in force; one of a kind at the most"),
        sa.Column("n_bytes", sa.BigInteger, nullable=False),
        sa.Column("checksum", sa.LargeBinary(32).with_variant(mysql.VARBINARY(32), "mysql"), nullable=False,
                  comment="BLAKE2b of the whole"),
        sa.Column("metrics", sa.JSON, nullable=False, comment="numbers by name"),
        sa.PrimaryKeyConstraint("kind", "version"),
        if_not_exists=True,
        **IN_MYSQL,
    )
    op.create_table(
        "songs_ai_model_block",
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("part", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("payload", sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql"), nullable=False),
        sa.Column("checksum", sa.BigInteger, nullable=False, comment="CRC-32 of payload"),
        sa.PrimaryKeyConstraint("kind", "version", "part"),
        if_not_exists=True,
        **IN_MYSQL,
    )


def downgrade() -> None:
    for table in ("model_block", "model"):
        op.drop_table(f"songs_ai_{table}", if_exists=True)
