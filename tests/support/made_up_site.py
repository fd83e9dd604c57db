"""A catalogue that is made up, with listeners who like songs of it."""

from config.catalogue_profile import CatalogueProfile
from services.catalogue import SqlCatalogue
from services.database import Database
from services.ingest_store import SqlIngestStore
from training.generate import SOURCE, generate_listeners, generate_songs
from training.ingest import save_items


async def fill_site(
    database: Database, profile: CatalogueProfile, *, n_songs: int, n_creators: int, n_listeners: int
) -> None:
    """Fill a migrated ``database``; the same numbers make the same site."""
    store, catalogue = SqlIngestStore(database, profile), SqlCatalogue(database, profile)
    await store.prepare()
    await save_items(SOURCE, generate_songs(1, n_songs, n_creators), store, n_songs)
    items = [item async for batch in catalogue.stream() for item in batch]
    await store.save_listeners(generate_listeners(items, n_listeners, 1))
