"""Writes lists of members, such as playlists, into the tables of a catalogue that is ours."""

from collections.abc import Sequence

import sqlalchemy as sa

from config.catalogue_profile import CatalogueProfile
from core.errors import ConfigurationError
from core.ports.filling import ListedItem
from services.backend_tables import backend_tables
from services.database import Database

_N_TRIPS = 24


class SqlListStore:
    """``ListStore`` in MySQL, MariaDB or SQLite; a list keeps the owner that it was first saved with."""

    def __init__(self, database: Database, profile: CatalogueProfile) -> None:
        """Raises ``ConfigurationError`` where the profile names no lists."""
        lists, tables = profile.lists, backend_tables(profile).lists
        if lists is None or tables is None:
            raise ConfigurationError(f"catalogue profile {profile.name!r} names no lists of members")
        self._database, self._names = database, lists
        self._rows, self._parents = tables

    async def save_lists(self, rows: Sequence[ListedItem]) -> int:
        """See ``ListStore.save_lists``."""
        names = self._names
        key, item = self._rows.c[names.key], self._rows.c[names.item]
        parent = self._parents.c[names.key]
        owners = {row.list_id: row.member_id for row in rows}
        async with self._database.begin(n_round_trips=_N_TRIPS) as connection:
            there = set(await connection.scalars(sa.select(parent).where(parent.in_(owners))))
            if absent := [list_id for list_id in owners if list_id not in there]:
                values = [{names.key: list_id, names.member: owners[list_id]} for list_id in absent]
                await connection.execute(sa.insert(self._parents), values)
            known = {tuple(row) for row in await connection.execute(sa.select(key, item).where(key.in_(owners)))}
            new = [row for row in rows if (row.list_id, row.item_id) not in known]
            if new:
                values = [{names.key: row.list_id, names.item: row.item_id} for row in new]
                await connection.execute(sa.insert(self._rows), values)
        return len(new)
