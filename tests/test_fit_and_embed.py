"""Statistics of the catalogue: when ``embed`` fits them, what is kept, and how running workers come to use them."""

from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from structlog.testing import capture_logs

from config.catalogue_profile import load_profile
from core.catalogue_statistics import STATISTICS_KIND, fit_statistics
from core.embedding import HashingEmbedder
from core.errors import ConfigurationError, DependencyUnavailable
from core.ports.arrays import Floats, Ids
from models.catalogue import Item
from models.log_event import LogEvent
from models.source import SourceItem
from services.catalogue import SqlCatalogue
from services.database import Database
from services.embedding_store import SqlEmbeddingStore
from services.fitted_embedder import FittedEmbedder, WishesByIndex
from services.former_embeddings import SqlFormerEmbeddings
from services.ingest_store import SqlIngestStore
from services.model_store import SqlModelStore
from services.refreshing_index import RefreshingIndex
from tests.support.catalogue import OnMySql, OnSqlite, WithTables, execute
from tests.support.hand_clock import HandClock
from training.embed import CatalogueFollower, EmbedReport, Fitting, fit_and_embed
from training.ingest import save_items

SONGS = load_profile("songs")
PLAIN = "hashing-2-64"


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.embed.MIN_ITEMS", 20)


class Site:
    """A catalogue, and one process that embeds it."""

    def __init__(self, database: Database, dim: int = 64) -> None:
        self.database = database
        self.catalogue, self.store = SqlCatalogue(database, SONGS), SqlEmbeddingStore(database, SONGS)
        self.models, self.former = SqlModelStore(database, HandClock()), SqlFormerEmbeddings(database)
        self.embedder = FittedEmbedder(self.models, dim)

    async def add(self, numbers: Sequence[int]) -> None:
        items = [
            SourceItem(
                source_id=str(n), titles={"en": f"Title {n % 5} of {n}"}, genres=("rock",), features={"energy": n / 99}
            )
            for n in numbers
        ]
        await save_items("s", items, SqlIngestStore(self.database, SONGS), len(items))

    async def embed(self, *, refit: bool = False, store: Any = None) -> EmbedReport:
        weights = SONGS.item.feature_weights
        fitting = Fitting(
            embedder=self.embedder, models=self.models, former=self.former, feature_weights=weights, refit=refit
        )
        return await fit_and_embed(self.catalogue, fitting, store or self.store, batch_size=10)

    async def stored(self, name: str) -> int:
        return len(await self.store.content_hashes(name))

    def index(self) -> RefreshingIndex:
        follower = CatalogueFollower(self.catalogue, self.embedder, self.store)
        return RefreshingIndex(
            self.store,
            self.embedder,
            refresh_s=1,
            clock=HandClock(),
            observer=Mock(),
            before_load=follower.follow,
            before_look=self.embedder.refresh,
        )


class Unreliable(SqlEmbeddingStore):
    """Fails at the second batch."""

    n_saved = 0

    async def save(self, embedder_name: str, ids: Ids, vectors: Floats, content_hashes: Sequence[bytes]) -> None:
        self.n_saved += 1
        if self.n_saved == 2:
            raise DependencyUnavailable("mysql", "gone")
        await super().save(embedder_name, ids, vectors, content_hashes)


class _FitTests(WithTables):
    async def test_the_first_run_fits_and_embeds_all_by_what_it_fitted(self, url: str, database: Database) -> None:
        site = Site(database)
        await site.add(range(30))
        assert await site.embed() == EmbedReport(n_items=30, n_embedded=30)
        name = site.embedder.name
        assert name.startswith(f"{PLAIN}-")
        assert (await site.stored(name), await site.stored(PLAIN)) == (30, 0)
        version = await site.models.active_version(STATISTICS_KIND)
        assert version is not None
        assert name.endswith(version[:8])
        rows = await site.store.load(name)
        items = [item async for batch in site.catalogue.stream() for item in batch]
        np.testing.assert_allclose(rows.vectors, site.embedder.named(name).embed_now(items), atol=1e-3)

    async def test_the_next_run_embeds_what_is_new_by_the_same(self, url: str, database: Database) -> None:
        site = Site(database)
        await site.add(range(30))
        await site.embed()
        name = site.embedder.name
        await site.add(range(30, 35))
        assert await site.embed() == EmbedReport(n_items=35, n_embedded=5, n_unchanged=30)
        assert site.embedder.name == name

    async def test_too_few_items_are_embedded_plainly(self, url: str, database: Database) -> None:
        site = Site(database)
        await site.add(range(19))
        await site.embed()
        assert (site.embedder.name, await site.stored(PLAIN)) == (PLAIN, 19)
        with pytest.raises(ConfigurationError, match="--refit: 19 items are too few, 20 are needed"):
            await site.embed(refit=True)

    async def test_a_catalogue_that_has_outgrown_its_statistics_is_fitted_anew(
        self, url: str, database: Database
    ) -> None:
        site = Site(database)
        await site.add(range(30))
        await site.embed()
        first = site.embedder.name
        await site.add(range(30, 70))
        assert (await site.embed()).n_embedded == 70
        second = site.embedder.name
        assert second != first
        # Who searches by the first still finds all of it, until the run after.
        assert (await site.stored(first), await site.stored(second)) == (30, 70)
        await site.embed()
        assert await site.former.names() == {second}
        assert await site.stored(first) == 0

    async def test_a_refit_of_the_same_catalogue_changes_nothing(self, url: str, database: Database) -> None:
        site = Site(database)
        await site.add(range(30))
        await site.embed()
        name = site.embedder.name
        assert (await site.embed(refit=True)).n_unchanged == 30
        assert site.embedder.name == name

    async def test_a_run_that_was_cut_off_puts_nothing_in_force_and_is_gone_on_with(
        self, url: str, database: Database
    ) -> None:
        site = Site(database)
        await site.add(range(30))
        with pytest.raises(DependencyUnavailable):
            await site.embed(store=Unreliable(database, SONGS))
        assert await site.models.active_version(STATISTICS_KIND) is None
        assert site.embedder.name == PLAIN
        assert await Site(database).embed() == EmbedReport(n_items=30, n_embedded=20, n_unchanged=10)

    async def test_a_worker_that_started_first_goes_over_to_them_whole(self, url: str, database: Database) -> None:
        site, worker = Site(database), Site(database)
        await site.add(range(30))
        index = worker.index()
        await index.load()
        await index.refresh()
        assert (index.current().embedder_name, len(index.current())) == (PLAIN, 30)
        with pytest.raises(DependencyUnavailable):
            await site.embed(store=Unreliable(database, SONGS))
        await index.refresh()
        assert (index.current().embedder_name, len(index.current())) == (PLAIN, 30)
        await site.embed()
        # All was embedded by the time that they were put in force.
        await index.refresh()
        assert index.current().embedder_name == site.embedder.name
        assert len(index.current()) == 30

    async def test_what_comes_later_is_embedded_by_the_worker_as_by_the_command(
        self, url: str, database: Database
    ) -> None:
        site, worker = Site(database), Site(database)
        await site.add(range(30))
        await site.embed()
        index = worker.index()
        await index.load()
        await index.refresh()
        await site.add([30])
        await index.refresh()
        assert len(index.current()) == 31
        assert await site.embed() == EmbedReport(n_items=31, n_unchanged=31)

    async def test_a_wish_is_embedded_as_the_index_in_force_was(self, url: str, database: Database) -> None:
        site, worker = Site(database), Site(database)
        await site.add(range(30))
        index = worker.index()
        await index.load()
        await index.refresh()
        wishes, wish = WishesByIndex(worker.embedder, index), Item(item_id=0, titles={}, genres=("rock",))
        plain = await HashingEmbedder(64).embed_wish("", wish)
        await site.embed()
        await worker.embedder.refresh()
        np.testing.assert_array_equal(await wishes.embed_wish("", wish), plain)
        await index.refresh()
        assert not np.array_equal(await wishes.embed_wish("", wish), plain)

    async def test_statistics_of_other_dimensions_are_fitted_anew(self, url: str, database: Database) -> None:
        site = Site(database)
        await site.add(range(30))
        await site.embed()
        other = Site(database, dim=96)
        await other.embed()
        assert other.embedder.is_current
        assert await site.stored(site.embedder.name) == 30

    async def test_spoilt_statistics_stop_a_start_and_a_refit_mends_them(self, url: str, database: Database) -> None:
        site = Site(database)
        await site.add(range(30))
        await site.embed()
        execute(url, "UPDATE songs_ai_model_block SET checksum = checksum + 1")
        with pytest.raises(ConfigurationError, match="spoilt"):
            await Site(database).index().load()
        with pytest.raises(ConfigurationError, match="spoilt"):
            await Site(database).embed()
        await site.add([31])
        again = Site(database)
        await again.embed(refit=True)
        await Site(database).index().load()
        assert again.embedder.is_current

    async def test_a_worker_keeps_those_that_it_has_where_newer_ones_cannot_be_read(
        self, url: str, database: Database
    ) -> None:
        site = Site(database)
        await site.add(range(30))
        await site.embed()
        name = site.embedder.name
        await site.models.save(STATISTICS_KIND, "broken", b"not statistics", {})
        await site.models.activate(STATISTICS_KIND, "broken")
        with capture_logs() as logs:
            await site.embedder.refresh()
            await site.embedder.refresh()
        assert [line["event"] for line in logs] == [LogEvent.MODEL_REFRESH_FAILED]
        assert site.embedder.name == name

    async def test_what_others_embedded_is_not_forgotten(self, url: str, database: Database) -> None:
        site = Site(database)
        await site.add(range(30))
        vector = np.ones((1, 4), np.float32)
        for name in ("openai-1-model-64", "hashing-2-128", "hashing-2-64-0ld"):
            await site.store.save(name, np.array([1]), vector, [b"x"])
        await site.embed()
        assert await site.former.names() == {"openai-1-model-64", "hashing-2-128", site.embedder.name}


class TestFitAndEmbedOnMySql(OnMySql, _FitTests):
    pass


class TestFitAndEmbedOnSqlite(OnSqlite, _FitTests):
    pass


def test_a_plain_start_knows_no_statistics() -> None:
    embedder = FittedEmbedder(Mock(), 64)
    assert not embedder.is_current
    assert not embedder.statistics.is_fitted
    assert fit_statistics([]).n_items == 0
