"""Events are cleaned up by age, and who was forgotten is kept, so that what is still under way is not kept either.

Revision: 0008
Follows: 0007
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

IN_MYSQL = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
INSTANT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")
INTERACTION, BY_TIME = "songs_ai_interaction", "ix_songs_ai_interaction_time"


def upgrade() -> None:
    # MySQL knows no CREATE INDEX IF NOT EXISTS.
    if BY_TIME not in indexes():
        op.create_index(BY_TIME, INTERACTION, ["occurred_at"])
    op.create_table(
        "songs_ai_forgotten_member",
        sa.Column("member_id", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("forgotten_at", INSTANT, nullable=False, comment="UTC; what they did until then is not kept any more"),
        sa.PrimaryKeyConstraint("member_id"),
        if_not_exists=True,
        **IN_MYSQL,
    )


def downgrade() -> None:
    op.drop_table("songs_ai_forgotten_member", if_exists=True)
    if BY_TIME in indexes():
        op.drop_index(BY_TIME, INTERACTION)


def indexes() -> set[str | None]:
    return {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(INTERACTION)}
