"""What is left of embeddings that nobody reads any more: those by former statistics of the catalogue."""

from collections.abc import Collection

import sqlalchemy as sa

from services.database import Database
from services.schema import embedding, embedding_block, embedding_mark

_AT_ONCE = 10_000
_N_TRIPS = 24


class SqlFormerEmbeddings:
    """Knows and deletes whole embeddings by the name of their embedder."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def names(self) -> set[str]:
        """The names of all embedders that anything is stored of."""
        query = sa.union(*(sa.select(table.c.embedder) for table in (embedding_mark, embedding_block)))
        async with self._database.connect(n_round_trips=_N_TRIPS) as connection:
            return set((await connection.scalars(query)).all())

    async def forget(self, embedder_names: Collection[str]) -> None:
        """Delete all that is stored of them; one that was cut off is gone on with by the next call."""
        for name in sorted(embedder_names):
            while await self._forget_some(name):
                pass
            async with self._database.begin(n_round_trips=_N_TRIPS) as connection:
                for table in (embedding_block, embedding_mark):
                    await connection.execute(sa.delete(table).where(table.c.embedder == name))

    async def _forget_some(self, name: str) -> bool:
        """Delete vectors in a transaction of bounded length; False where there are none."""
        of_name = embedding.c.embedder == name
        ids = sa.select(embedding.c.item_id).where(of_name).order_by(embedding.c.item_id)
        async with self._database.begin(n_round_trips=_N_TRIPS) as connection:
            found = (await connection.scalars(ids.limit(_AT_ONCE))).all()
            if found:
                await connection.execute(sa.delete(embedding).where(of_name, embedding.c.item_id <= found[-1]))
        return bool(found)
