"""Imports from other services know where they go on.

Revision: 0009
Follows: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

IN_MYSQL = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    op.create_table(
        "songs_ai_import_cursor",
        sa.Column("source_key", sa.String(191), nullable=False),
        sa.Column("next_page", sa.String(1000), nullable=False, comment="where the import goes on"),
        sa.PrimaryKeyConstraint("source_key"),
        if_not_exists=True,
        **IN_MYSQL,
    )


def downgrade() -> None:
    op.drop_table("songs_ai_import_cursor", if_exists=True)
