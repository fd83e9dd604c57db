"""Where imports go on, in a table of ours."""

import sqlalchemy as sa

from services.database import Database
from services.schema import import_cursor


class SqlImportCursors:
    """``ImportCursors`` in MySQL, MariaDB or SQLite."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def cursor(self, key: str) -> str | None:
        """See ``ImportCursors.cursor``."""
        query = sa.select(import_cursor.c.next_page).where(import_cursor.c.source_key == key)
        async with self._database.connect() as connection:
            found: str | None = await connection.scalar(query)
        return found

    async def keep(self, key: str, cursor: str | None) -> None:
        """See ``ImportCursors.keep``."""
        async with self._database.begin(n_round_trips=4) as connection:
            await connection.execute(sa.delete(import_cursor).where(import_cursor.c.source_key == key))
            if cursor is not None:
                await connection.execute(sa.insert(import_cursor), {"source_key": key, "next_page": cursor})
