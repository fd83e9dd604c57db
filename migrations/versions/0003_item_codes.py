"""What a search inside the database looks through: a narrow row for each item, and how its codes were made.

Where MariaDB has a vector index, the worker makes a table for it beside these, whose name and type depend on the
embedder and on the server.

Revision: 0003
Follows: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

IN_MYSQL = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
CODE = sa.BigInteger().with_variant(mysql.BIGINT(unsigned=True), "mysql")
VECTOR_TABLES = "songs_ai_item_vector_"


def upgrade() -> None:
    op.create_table(
        "songs_ai_item_coder",
        sa.Column("generation", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=True, nullable=False),
        sa.Column("embedder", sa.String(64), nullable=False),
        sa.Column("method", sa.String(16), nullable=False, comment="sign_codes or native"),
        sa.Column(
            "coder",
            sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql"),
            nullable=False,
            comment="mean and rotation, little-endian float32; empty for native",
        ),
        sa.Column("n_items", sa.BigInteger, nullable=False, comment="when the width was found"),
        sa.Column("width", sa.Integer, comment="how wide a search for 200 looks; NULL: not ready"),
        sa.Column("recall", sa.Double, comment="at 200, on a sample"),
        sa.PrimaryKeyConstraint("generation"),
        if_not_exists=True,
        **IN_MYSQL,
    )
    op.create_table(
        "songs_ai_item_code",
        sa.Column("generation", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("item_id", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("change_no", sa.BigInteger, nullable=False, comment="of the vector that the codes were made from"),
        sa.Column("digest", sa.String(32), nullable=False, comment="SHA-2 of the attributes as the item table has them"),
        *(sa.Column(f"code_{place}", CODE) for place in range(4)),
        sa.Column("genres", sa.String(1023), nullable=False, comment="comma-separated, casefolded"),
        sa.Column("moods", sa.String(1023), nullable=False, comment="comma-separated, casefolded"),
        sa.Column("language", sa.String(1023), nullable=False, comment="casefolded"),
        sa.Column("popularity", sa.Float, nullable=False, comment="0 to 1"),
        sa.PrimaryKeyConstraint("generation", "item_id"),
        if_not_exists=True,
        **IN_MYSQL,
    )


def downgrade() -> None:
    names = sa.inspect(op.get_bind()).get_table_names()
    for name in names:
        if name.startswith(VECTOR_TABLES):
            op.drop_table(name)
    for table in ("code", "coder"):
        op.drop_table(f"songs_ai_item_{table}", if_exists=True)
