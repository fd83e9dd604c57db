"""Batches of a refresh say in their rows what they used and came to: the rows stay, and sums of them are metrics.

Revision: 0010
Follows: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

PART = "songs_ai_refresh_part"
OUTCOMES = ("merged", "stale", "failed", "unusable", "unanswered", "online")


def columns() -> list[sa.Column[int]]:
    used = [sa.Column(f"{kind}_tokens", sa.BigInteger) for kind in ("prompt", "completion", "cached")]
    cost = sa.Column("cost_nano_usd", sa.BigInteger, comment="NULL: not known yet")
    return [*used, cost, *(sa.Column(f"n_{outcome}", sa.Integer) for outcome in OUTCOMES)]


def upgrade() -> None:
    present = present_columns()
    for column in columns():
        if column.name not in present:
            op.add_column(PART, column)


def downgrade() -> None:
    present = present_columns()
    for column in columns():
        if column.name in present:
            op.drop_column(PART, column.name)
    # Before 0010 a part went with its questions.
    op.execute(
        "DELETE FROM songs_ai_refresh_part WHERE status IS NOT NULL"
        " AND part_key NOT IN (SELECT part_key FROM songs_ai_refresh_question)"
    )


def present_columns() -> set[str]:
    return {str(column["name"]) for column in sa.inspect(op.get_bind()).get_columns(PART)}
