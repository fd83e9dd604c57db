"""What fitted versions were made of, which was put in force when and why, and who may fit now.

Revision: 0006
Follows: 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

IN_MYSQL = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
INSTANT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")


def upgrade() -> None:
    op.create_table(
        "songs_ai_model_origin",
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("recipe", sa.JSON, nullable=False, comment="parameters that it was fitted by"),
        sa.Column("data_figures", sa.JSON, nullable=False, comment="distributions of the data that it was fitted on"),
        sa.Column("data_until", INSTANT, comment="UTC; the newest that is in it; NULL: not known"),
        sa.PrimaryKeyConstraint("kind", "version"),
        if_not_exists=True,
        **IN_MYSQL,
    )
    op.create_table(
        "songs_ai_model_promotion",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("version", sa.String(64), nullable=False, comment="in force from here on"),
        sa.Column("replaced", sa.String(64), comment="in force before; NULL: none was"),
        sa.Column("cause", sa.String(16), nullable=False, comment="fit, promote, rollback or activate"),
        sa.Column("reason", sa.String(1023), nullable=False),
        sa.Column("promoted_at", INSTANT, nullable=False, comment="UTC"),
        if_not_exists=True,
        **IN_MYSQL,
    )
    op.create_table(
        "songs_ai_lease",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("holder", sa.String(191), nullable=False),
        sa.Column("held_until", INSTANT, nullable=False, comment="UTC"),
        sa.PrimaryKeyConstraint("name"),
        if_not_exists=True,
        **IN_MYSQL,
    )


def downgrade() -> None:
    for table in ("lease", "model_promotion", "model_origin"):
        op.drop_table(f"songs_ai_{table}", if_exists=True)
