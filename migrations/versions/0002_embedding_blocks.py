"""Vectors packed into blocks, and a rising number for each change of a vector in place of a random one.

The vectors that are there count as changed before everything that is numbered.

Revision: 0002
Follows: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

IN_MYSQL = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
CHANGES = "ix_songs_ai_embedding_change"


def upgrade() -> None:
    replace_column(
        "stamp",
        sa.Column(
            "change_no",
            sa.BigInteger,
            nullable=False,
            server_default=sa.text("0"),
            comment="of the save or deletion that wrote the row; rises with every commit",
        ),
    )
    create_absent_index(CHANGES, "songs_ai_embedding", ["embedder", "change_no"])
    op.create_table(
        "songs_ai_embedding_mark",
        sa.Column("embedder", sa.String(64), nullable=False),
        sa.Column(
            "mark",
            sa.String(16),
            nullable=False,
            comment="last: newest change_no; packed: all changes up to it are in blocks; origin: random",
        ),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("embedder", "mark"),
        if_not_exists=True,
        **IN_MYSQL,
    )
    op.create_table(
        "songs_ai_embedding_block",
        sa.Column("embedder", sa.String(64), nullable=False),
        sa.Column("first_id", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("last_id", sa.BigInteger, nullable=False),
        sa.Column("n_items", sa.Integer, nullable=False),
        sa.Column("packed_to", sa.BigInteger, nullable=False, comment="the last change_no when it was packed"),
        sa.Column("checksum", sa.BigInteger, nullable=False, comment="CRC-32 of payload"),
        sa.Column(
            "payload",
            sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql"),
            nullable=False,
            comment="ids as little-endian int64, then vectors as float16",
        ),
        sa.PrimaryKeyConstraint("embedder", "first_id"),
        if_not_exists=True,
        **IN_MYSQL,
    )


def downgrade() -> None:
    for table in ("block", "mark"):
        op.drop_table(f"songs_ai_embedding_{table}", if_exists=True)
    # Deleted vectors are rows without one from 0002 on.
    op.execute("DELETE FROM songs_ai_embedding WHERE LENGTH(vector_bytes) = 0")
    if CHANGES in names_of("indexes"):
        op.drop_index(CHANGES, "songs_ai_embedding")
    replace_column(
        "change_no",
        sa.Column(
            "stamp",
            sa.BigInteger,
            nullable=False,
            server_default=sa.text("0"),
            comment="random per save: sums of it tell changes",
        ),
    )


def replace_column(old: str, new: sa.Column[int]) -> None:
    present = names_of("columns")
    if new.name not in present:
        op.add_column("songs_ai_embedding", new)
    if old in present:
        op.drop_column("songs_ai_embedding", old)


def create_absent_index(name: str, table: str, columns: list[str]) -> None:
    if name not in names_of("indexes"):
        op.create_index(name, table, columns)


def names_of(what: str) -> set[str | None]:
    inspector = sa.inspect(op.get_bind())
    found = (
        inspector.get_columns("songs_ai_embedding")
        if what == "columns"
        else inspector.get_indexes("songs_ai_embedding")
    )
    return {each["name"] for each in found}
