"""The step that embeds the catalogue: incremental, resumable, and the same on real databases."""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from unittest.mock import Mock

import numpy as np
import pytest

from config.catalogue_profile import load_profile
from core.embedding import HashingEmbedder, content_hash
from core.errors import DependencyUnavailable
from core.ports.arrays import Floats, Ids
from core.ports.catalogue import ItemChanges, ItemsMark
from core.ports.index import IndexChanges, IndexMark, IndexRows
from models.catalogue import Item
from models.source import SourceItem
from services.catalogue import SqlCatalogue
from services.database import Database
from services.embedding_store import SqlEmbeddingStore
from services.ingest_store import SqlIngestStore
from services.refreshing_index import RefreshingIndex
from tests.support.builders import make_item
from tests.support.catalogue import OnMySql, OnSqlite, WithTables, execute, update_song
from tests.support.hand_clock import HandClock
from training.embed import CatalogueFollower, EmbedReport, embed_catalogue
from training.ingest import save_items

SONGS = load_profile("songs")


class ListedCatalogue:
    """A ``Catalogue`` of given items."""

    def __init__(self, *items: Item) -> None:
        self.given = list(items)

    async def items(self, item_ids: Collection[int]) -> dict[int, Item]:
        return {item.item_id: item for item in self.given if item.item_id in item_ids}

    async def active_ids(self, item_ids: Collection[int]) -> set[int]:
        return {item.item_id for item in self.given if item.item_id in item_ids}

    async def stream(self, batch_size: int = 1000) -> AsyncIterator[Sequence[Item]]:
        for start in range(0, len(self.given), batch_size):
            yield self.given[start : start + batch_size]


class InMemoryEmbeddingStore:
    """An ``EmbeddingStore`` in memory that can fail at a batch."""

    def __init__(self, *, fail_at_save: int | None = None) -> None:
        self.rows: dict[tuple[str, int], tuple[Floats, bytes]] = {}
        self.n_saves = self.n_packs = 0
        self.fail_at_save = fail_at_save

    async def version(self, embedder_name: str) -> str:
        return str(len(self.rows))

    async def load(self, embedder_name: str) -> IndexRows:
        raise NotImplementedError

    async def changes(self, embedder_name: str, mark: IndexMark, max_items: int) -> IndexChanges | None:
        raise NotImplementedError

    async def pack(self, embedder_name: str) -> int:
        self.n_packs += 1
        return 0

    async def content_hashes(self, embedder_name: str, item_ids: Collection[int] | None = None) -> dict[int, bytes]:
        return {
            item_id: content
            for (name, item_id), (_, content) in self.rows.items()
            if name == embedder_name and (item_ids is None or item_id in item_ids)
        }

    async def save(self, embedder_name: str, ids: Ids, vectors: Floats, content_hashes: Sequence[bytes]) -> None:
        self.n_saves += 1
        if self.n_saves == self.fail_at_save:
            raise DependencyUnavailable("mysql", "gone")
        for item_id, vector, content in zip(ids.tolist(), vectors, content_hashes, strict=True):
            self.rows[embedder_name, item_id] = (vector, content)

    async def delete(self, embedder_name: str, item_ids: Collection[int]) -> None:
        for item_id in item_ids:
            del self.rows[embedder_name, item_id]


class CountingEmbedder(HashingEmbedder):
    """Remembers which items it was asked for."""

    def __init__(self, dim: int = 64) -> None:
        super().__init__(dim)
        self.asked: list[int] = []

    async def embed(self, items: Sequence[Item]) -> Floats:
        self.asked += [item.item_id for item in items]
        return await super().embed(items)


@pytest.fixture
def store() -> InMemoryEmbeddingStore:
    return InMemoryEmbeddingStore()


def songs(n: int) -> list[Item]:
    return [make_item(number) for number in range(1, n + 1)]


async def test_every_item_is_embedded_with_the_hash_of_its_content(store: InMemoryEmbeddingStore) -> None:
    items = songs(3)
    report = await embed_catalogue(ListedCatalogue(*items), HashingEmbedder(64), store)
    assert report == EmbedReport(n_items=3, n_embedded=3)
    expected = HashingEmbedder(64).embed_now(items)
    for item, vector in zip(items, expected, strict=True):
        saved, content = store.rows["hashing-2-64", item.item_id]
        np.testing.assert_array_equal(saved, vector)
        assert content == content_hash(item)


async def test_a_second_run_embeds_nothing(store: InMemoryEmbeddingStore) -> None:
    catalogue, embedder = ListedCatalogue(*songs(3)), CountingEmbedder()
    await embed_catalogue(catalogue, embedder, store)
    report = await embed_catalogue(catalogue, embedder, store)
    assert report == EmbedReport(n_items=3, n_unchanged=3)
    assert embedder.asked == [1, 2, 3]
    assert store.n_saves == 1


async def test_only_new_and_changed_items_are_embedded(store: InMemoryEmbeddingStore) -> None:
    items, embedder = songs(3), CountingEmbedder()
    await embed_catalogue(ListedCatalogue(*items), embedder, store)
    embedder.asked.clear()
    changed = [items[0], replace(items[1], genres=("rock",)), replace(items[2], popularity=0.9), make_item(4)]
    report = await embed_catalogue(ListedCatalogue(*changed), embedder, store)
    assert embedder.asked == [2, 4]
    assert report == EmbedReport(n_items=4, n_embedded=2, n_unchanged=2)


async def test_vectors_of_items_that_are_gone_are_deleted(store: InMemoryEmbeddingStore) -> None:
    items = songs(3)
    await embed_catalogue(ListedCatalogue(*items), HashingEmbedder(64), store)
    report = await embed_catalogue(ListedCatalogue(items[1]), HashingEmbedder(64), store)
    assert report == EmbedReport(n_items=1, n_unchanged=1, n_deleted=2)
    assert store.rows.keys() == {("hashing-2-64", 2)}


async def test_the_vectors_of_another_embedder_are_left_alone(store: InMemoryEmbeddingStore) -> None:
    catalogue = ListedCatalogue(*songs(2))
    await embed_catalogue(catalogue, HashingEmbedder(64), store)
    report = await embed_catalogue(catalogue, HashingEmbedder(128), store)
    assert report.n_embedded == 2
    assert {name for name, _ in store.rows} == {"hashing-2-64", "hashing-2-128"}


async def test_an_item_without_content_gets_no_vector(store: InMemoryEmbeddingStore) -> None:
    report = await embed_catalogue(ListedCatalogue(make_item(1), Item(item_id=2, titles={})), HashingEmbedder(), store)
    assert report == EmbedReport(n_items=2, n_embedded=1, n_without_content=1)
    assert list(await store.content_hashes("hashing-2-256")) == [1]


async def test_an_item_that_lost_its_content_loses_its_vector(store: InMemoryEmbeddingStore) -> None:
    await embed_catalogue(ListedCatalogue(*songs(2)), HashingEmbedder(), store)
    emptied = ListedCatalogue(make_item(1), Item(item_id=2, titles={}))
    assert (await embed_catalogue(emptied, HashingEmbedder(), store)).n_deleted == 1
    assert list(await store.content_hashes("hashing-2-256")) == [1]


async def test_a_run_that_was_cut_off_is_gone_on_with() -> None:
    catalogue, embedder = ListedCatalogue(*songs(10)), CountingEmbedder()
    store = InMemoryEmbeddingStore(fail_at_save=3)
    with pytest.raises(DependencyUnavailable):
        await embed_catalogue(catalogue, embedder, store, batch_size=3)
    assert len(store.rows) == 6
    embedder.asked.clear()
    report = await embed_catalogue(catalogue, embedder, store, batch_size=3)
    assert (report.n_unchanged, report.n_embedded, embedder.asked) == (6, 4, [7, 8, 9, 10])


async def test_a_run_that_is_cut_off_deletes_nothing() -> None:
    store = InMemoryEmbeddingStore()
    await embed_catalogue(ListedCatalogue(*songs(3)), HashingEmbedder(64), store)
    store.fail_at_save = 2
    with pytest.raises(DependencyUnavailable):
        await embed_catalogue(ListedCatalogue(make_item(9)), HashingEmbedder(64), store)
    assert len(store.rows) == 3


async def test_progress_is_told_after_each_batch(store: InMemoryEmbeddingStore) -> None:
    told: list[int] = []
    await embed_catalogue(ListedCatalogue(*songs(7)), HashingEmbedder(64), store, told.append, batch_size=3)
    assert told == [3, 6, 7]


async def test_a_change_of_a_text_column_counts_where_it_is_read(store: InMemoryEmbeddingStore) -> None:
    def catalogue(reading: str) -> ListedCatalogue:
        return ListedCatalogue(replace(make_item(1), columns={"title_yomi": reading}))

    embedder = HashingEmbedder(64, text_columns=["title_yomi"])
    await embed_catalogue(catalogue("a"), embedder, store, text_columns=["title_yomi"])
    report = await embed_catalogue(catalogue("b"), embedder, store, text_columns=["title_yomi"])
    assert report.n_embedded == 1


class ChangingList(ListedCatalogue):
    """A ``ChangingCatalogue`` of given items; ``changed_at`` are their dates, by id."""

    def __init__(self, *items: Item) -> None:
        super().__init__(*items)
        self.n_streams = 0
        self.changed_at: dict[int, int] = {}

    def stream(self, batch_size: int = 1000) -> AsyncIterator[Sequence[Item]]:
        self.n_streams += 1
        return super().stream(batch_size)

    async def mark(self) -> ItemsMark:
        ids = sorted(item.item_id for item in self.given)
        dates = [self.changed_at.get(item_id, 0) for item_id in ids]
        return ItemsMark(None, np.array(ids, np.int64), np.array(dates, np.int64))

    async def changes(self, mark: ItemsMark) -> ItemChanges:
        now = await self.mark()
        before = dict(zip(mark.active_ids.tolist(), mark.dates.tolist(), strict=True))
        changed = [each for each, date in zip(now.active_ids, now.dates, strict=True) if before.get(int(each)) != date]
        return ItemChanges(np.array(changed, np.int64), np.setdiff1d(mark.active_ids, now.active_ids), now)

    async def complete_items(self, item_ids: Collection[int]) -> Sequence[Item]:
        return [item for item in self.given if item.item_id in item_ids]


async def test_a_catalogue_is_read_whole_once_and_then_followed(store: InMemoryEmbeddingStore) -> None:
    catalogue, embedder = ChangingList(*songs(5)), CountingEmbedder()
    follower = CatalogueFollower(catalogue, embedder, store, batch_size=2)
    assert await follower.follow() == EmbedReport(n_items=5, n_embedded=5)
    assert await follower.follow() == EmbedReport()
    catalogue.given = [replace(catalogue.given[0], genres=("new",)), *catalogue.given[2:], make_item(9)]
    catalogue.changed_at = {1: 1, 3: 1}
    embedder.asked.clear()
    assert await follower.follow() == EmbedReport(n_items=3, n_embedded=2, n_unchanged=1, n_deleted=1)
    assert (embedder.asked, catalogue.n_streams, store.n_packs) == ([1, 9], 1, 0)
    assert {item_id for _, item_id in store.rows} == {1, 3, 4, 5, 9}


async def test_whoever_follows_says_what_is_gone() -> None:
    catalogue, gone = ChangingList(*songs(4)), list[Collection[int]]()
    follower = CatalogueFollower(catalogue, CountingEmbedder(), InMemoryEmbeddingStore(), on_gone=gone.append)
    await follower.follow()
    await follower.follow()
    assert gone == []
    catalogue.given = catalogue.given[2:]
    await follower.follow()
    assert gone == [[1, 2]]


async def test_what_went_while_nobody_followed_is_said_by_whoever_begins(store: InMemoryEmbeddingStore) -> None:
    catalogue, gone = ChangingList(*songs(5)), list[Collection[int]]()
    await CatalogueFollower(catalogue, CountingEmbedder(), store).follow()
    # Of the third nothing is left to embed, but it is there.
    catalogue.given = [Item(item_id=3, titles={}), *catalogue.given[3:]]
    await CatalogueFollower(catalogue, CountingEmbedder(), store, on_gone=gone.append).follow()
    assert gone == [{1, 2}]
    await CatalogueFollower(catalogue, CountingEmbedder(), store, on_gone=gone.append).follow()
    assert gone == [{1, 2}]


async def test_what_another_process_has_embedded_is_left_as_it_is(store: InMemoryEmbeddingStore) -> None:
    catalogue, embedders = ChangingList(*songs(3)), (CountingEmbedder(), CountingEmbedder())
    followers = [CatalogueFollower(catalogue, embedder, store) for embedder in embedders]
    for follower in followers:
        await follower.follow()
    catalogue.given.append(make_item(4))
    for follower in followers:
        await follower.follow()
    assert [embedder.asked for embedder in embedders] == [[1, 2, 3, 4], []]


async def test_what_could_not_be_saved_is_followed_again() -> None:
    store = InMemoryEmbeddingStore(fail_at_save=2)
    catalogue = ChangingList(*songs(2))
    follower = CatalogueFollower(catalogue, HashingEmbedder(64), store)
    await follower.follow()
    catalogue.given.append(make_item(3))
    with pytest.raises(DependencyUnavailable):
        await follower.follow()
    assert (await follower.follow()).n_embedded == 1
    assert len(store.rows) == 3


async def test_an_item_that_lost_its_content_is_followed_too(store: InMemoryEmbeddingStore) -> None:
    catalogue = ChangingList(*songs(2))
    follower = CatalogueFollower(catalogue, HashingEmbedder(64), store)
    await follower.follow()
    catalogue.given[1], catalogue.changed_at = Item(item_id=2, titles={}), {2: 1}
    assert (await follower.follow()).n_deleted == 1


async def test_the_step_packs_what_it_saved(store: InMemoryEmbeddingStore) -> None:
    await embed_catalogue(ListedCatalogue(*songs(2)), HashingEmbedder(64), store)
    assert store.n_packs == 1


class _EmbedTests(WithTables):
    async def test_the_vectors_of_a_real_catalogue_follow_its_changes(self, url: str, database: Database) -> None:
        items = [SourceItem(source_id=str(n), titles={"en": f"Title {n}"}, features={"energy": 0.5}) for n in range(25)]
        await save_items("s", items, SqlIngestStore(database, SONGS), len(items))
        parts = SqlCatalogue(database, SONGS), HashingEmbedder(64), SqlEmbeddingStore(database, SONGS)
        assert await embed_catalogue(*parts, batch_size=10) == EmbedReport(n_items=25, n_embedded=25)
        assert await embed_catalogue(*parts, batch_size=10) == EmbedReport(n_items=25, n_unchanged=25)
        execute(
            url,
            "UPDATE song SET title_en = 'Other' WHERE song_id = 3",
            "UPDATE song SET is_active = 0 WHERE song_id = 4",
            "DELETE FROM song WHERE song_id = 5",
        )
        report = await embed_catalogue(*parts, batch_size=10)
        assert report == EmbedReport(n_items=23, n_embedded=1, n_unchanged=22, n_deleted=2)
        rows = await parts[2].load("hashing-2-64")
        assert len(rows.ids) == 23
        np.testing.assert_allclose(np.linalg.norm(rows.vectors, axis=1), 1, atol=1e-2)

    async def test_a_refresh_finds_new_and_changed_items_and_forgets_what_is_gone(
        self, url: str, database: Database
    ) -> None:
        items = [SourceItem(source_id=str(n), titles={"en": f"Title {n}"}) for n in range(5)]
        await save_items("s", items[:4], SqlIngestStore(database, SONGS), 4)
        catalogue, embedder, store = (
            SqlCatalogue(database, SONGS),
            HashingEmbedder(64),
            SqlEmbeddingStore(database, SONGS),
        )
        index = RefreshingIndex(
            store,
            embedder,
            refresh_s=1,
            clock=HandClock(),
            observer=Mock(),
            before_load=CatalogueFollower(catalogue, embedder, store).follow,
        )
        await index.load()
        await index.refresh()
        assert len(index.current()) == 4
        before = (await index.current().vectors([1]))[1]
        await save_items("s", items[4:], SqlIngestStore(database, SONGS), 1)
        execute(url, "DELETE FROM song WHERE song_id = 2")
        update_song(url, 1, title_en="Other", modified_at=datetime(2037, 1, 1))  # noqa: DTZ001 - as databases hold them
        await index.refresh()
        assert (await index.current().vectors([1, 2, 3, 4, 5]))[0].tolist() == [1, 3, 4, 5]
        assert not np.array_equal((await index.current().vectors([1]))[1], before)


class TestEmbedOnMySql(OnMySql, _EmbedTests):
    pass


class TestEmbedOnSqlite(OnSqlite, _EmbedTests):
    pass
