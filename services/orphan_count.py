"""Counts rows of likes, lists and events whose item the catalogue has not, or not any more."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from config.catalogue_profile import CatalogueProfile
from services.database import Database
from services.item_changes import N_SCAN_TRIPS
from services.schema import LazyTables, ProfileTables, interaction


class SqlOrphanCount:
    """Items that are there but not active are no orphans: they may come back."""

    def __init__(self, database: Database, profile: CatalogueProfile) -> None:
        self._database, self._profile = database, profile
        self._tables = LazyTables(database, profile)

    async def count(self) -> tuple[int, int]:
        """How many rows there are, and how many of them are orphans; raises as ``InteractionLog`` does."""
        tables = await self._tables.get()
        item_id = tables.item.columns[self._profile.item.id]
        n_rows = n_orphaned = 0
        for column in _item_columns(tables, self._profile):
            joined = column.table.outerjoin(tables.item, item_id == column)
            query = sa.select(sa.func.count(), sa.func.count(item_id)).select_from(joined).where(column.is_not(None))
            async with self._database.connect(n_round_trips=N_SCAN_TRIPS) as connection:
                n, n_known = (await connection.execute(query)).one()
            n_rows, n_orphaned = n_rows + n, n_orphaned + n - n_known
        return n_rows, n_orphaned


def _item_columns(tables: ProfileTables, profile: CatalogueProfile) -> Iterator[sa.Column[Any]]:
    yield tables.likes.columns[profile.likes.item]
    if profile.lists and tables.lists:
        yield tables.lists[0].columns[profile.lists.item]
    yield interaction.c.item_id
