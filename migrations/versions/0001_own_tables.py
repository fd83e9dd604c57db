"""The worker's own tables: embeddings, where items came from, their features, and interactions.

MySQL commits at every statement of this kind, so that a run that was cut off must be able to run again: what is there
already is left as it is.

Revision: 0001
Follows: nothing
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

IN_MYSQL = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
HASH = sa.LargeBinary(32).with_variant(mysql.VARBINARY(32), "mysql")


def upgrade() -> None:
    op.create_table(
        "songs_ai_embedding",
        sa.Column("embedder", sa.String(64), nullable=False),
        sa.Column("item_id", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("vector_bytes", sa.LargeBinary(1024).with_variant(mysql.VARBINARY(1024), "mysql"), nullable=False,
                  comment="little-endian float16"),
        sa.Column("content_hash", HASH, nullable=False),
        sa.Column("stamp", sa.BigInteger, nullable=False, comment="random per save: sums of it tell changes"),
        sa.PrimaryKeyConstraint("embedder", "item_id"),
        if_not_exists=True,
        **IN_MYSQL,
    )
    op.create_table(
        "songs_ai_item_source",
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("source_id", sa.String(191), nullable=False),
        sa.Column("item_id", sa.BigInteger, nullable=False),
        sa.Column("content_hash", HASH, nullable=False),
        sa.PrimaryKeyConstraint("source", "source_id"),
        if_not_exists=True,
        **IN_MYSQL,
    )
    create_absent_index("ix_songs_ai_item_source_item", "songs_ai_item_source", ["item_id"])
    op.create_table(
        "songs_ai_item_feature",
        sa.Column("item_id", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("features", sa.JSON, nullable=False, comment="numbers by name"),
        sa.Column("popularity", sa.Float, comment="0 to 1"),
        sa.PrimaryKeyConstraint("item_id"),
        if_not_exists=True,
        **IN_MYSQL,
    )
    op.create_table(
        "songs_ai_interaction",
        sa.Column("event_id", sa.String(191), nullable=False),
        sa.Column("member_id", sa.BigInteger, nullable=False),
        sa.Column("item_id", sa.BigInteger),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("value", sa.Double),
        sa.Column("completed", sa.Boolean),
        sa.Column("occurred_at", sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql"), nullable=False,
                  comment="UTC"),
        sa.PrimaryKeyConstraint("event_id"),
        if_not_exists=True,
        **IN_MYSQL,
    )
    create_absent_index("ix_songs_ai_interaction_member", "songs_ai_interaction", ["member_id", "occurred_at"])


def create_absent_index(name: str, table: str, columns: list[str]) -> None:
    # MySQL, unlike MariaDB and SQLite, knows no CREATE INDEX IF NOT EXISTS.
    present = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}
    if name not in present:
        op.create_index(name, table, columns)


def downgrade() -> None:
    for table in ("interaction", "item_feature", "item_source", "embedding"):
        op.drop_table(f"songs_ai_{table}", if_exists=True)
