"""Vectors to MySQL and back, and a version that tells of every change."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from core.embedding import HashingEmbedder
from core.ports.arrays import Floats
from core.ports.index import IndexMark
from models.log_event import LogEvent
from services.catalogue import SqlCatalogue
from services.database import Database
from services.embedding_store import SqlEmbeddingStore
from tests.support.catalogue import (
    LONG_AGO,
    SONGS,
    OnMySql,
    OnSqlite,
    WithTables,
    connection,
    execute,
    give_features,
    insert_songs,
    like,
    statements_sent,
    update_song,
)
from training.embed import embed_catalogue

NAME = "hashing-1-64"
DIM = 64
LATER = datetime(2026, 2, 1)  # noqa: DTZ001 - as databases hold them


def unit_vectors(n: int, *, seed: int = 1, dim: int = DIM) -> Floats:
    rows = np.random.default_rng(seed).normal(size=(n, dim))
    unit: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def digests(n: int) -> list[bytes]:
    return [bytes([number % 256]) * 32 for number in range(n)]


async def saved(database: Database, *item_ids: int, name: str = NAME, seed: int = 1) -> SqlEmbeddingStore:
    """A store that holds a vector for each id."""
    store = SqlEmbeddingStore(database, SONGS)
    n = len(item_ids)
    await store.save(name, np.array(item_ids, dtype=np.int64), unit_vectors(n, seed=seed), digests(n))
    return store


class EmbeddingStoreTests(WithTables):
    async def test_what_was_saved_is_loaded_in_order_of_id_with_its_attributes(
        self, url: str, database: Database
    ) -> None:
        insert_songs(
            url,
            {"song_id": 5, "genre": "rock, metal", "mood": "wild", "lang": "en", "artist": "A"},
            {"song_id": 3, "genre": None, "mood": "", "lang": None, "artist": None},
        )
        give_features(url, 5, popularity=0.5)
        rows = await (await saved(database, 5, 3)).load(NAME)
        vectors = unit_vectors(2)
        assert rows.ids.tolist() == [3, 5]
        assert rows.ids.dtype == np.int64
        np.testing.assert_allclose(rows.vectors, vectors[[1, 0]], atol=5e-4)
        assert list(rows.genres) == [(), ("rock", "metal")]
        assert list(rows.moods) == [(), ("wild",)]
        assert list(rows.languages) == [None, "en"]
        assert list(rows.creators) == [None, "A"]
        np.testing.assert_allclose(rows.popularity, [0, 0.5])

    async def test_loaded_vectors_have_unit_length_at_16_bits(self, url: str, database: Database) -> None:
        insert_songs(url, *({"song_id": song_id} for song_id in range(1, 21)))
        rows = await (await saved(database, *range(1, 21))).load(NAME)
        assert [str(each.dtype) for each in (rows.vectors, rows.popularity)] == ["float16", "float32"]
        np.testing.assert_allclose(np.linalg.norm(rows.vectors.astype(np.float32), axis=1), 1, atol=1e-3)

    async def test_the_vector_of_an_item_without_content_stays_zero(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1})
        store = SqlEmbeddingStore(database, SONGS)
        await store.save(NAME, np.array([1]), np.zeros((1, DIM), dtype=np.float32), [b""])
        assert not (await store.load(NAME)).vectors.any()

    async def test_an_empty_store_loads_no_rows(self, database: Database) -> None:
        rows = await SqlEmbeddingStore(database, SONGS).load(NAME)
        assert (len(rows.ids), len(rows.vectors), len(rows.genres)) == (0, 0, 0)

    async def test_only_active_items_that_exist_are_loaded(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1}, {"song_id": 2, "is_active": False}, {"song_id": 3, "is_active": None})
        rows = await (await saved(database, 1, 2, 3, 4)).load(NAME)
        assert rows.ids.tolist() == [1, 3]

    async def test_embedders_never_mix(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1}, {"song_id": 2})
        store = await saved(database, 1)
        await saved(database, 2, name="other-1-64")
        assert (await store.load(NAME)).ids.tolist() == [1]
        assert set(await store.content_hashes(NAME)) == {1}
        await store.delete("other-1-64", [1, 2])
        assert (await store.load(NAME)).ids.tolist() == [1]

    async def test_saving_again_replaces(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1})
        await saved(database, 1)
        store = await saved(database, 1, seed=2)
        np.testing.assert_allclose((await store.load(NAME)).vectors, unit_vectors(1, seed=2), atol=5e-4)

    async def test_content_hashes_come_back_byte_for_byte(self, database: Database) -> None:
        store = SqlEmbeddingStore(database, SONGS)
        hashes = [b"\x00\xff'\\\"%s\n\x1a" * 3, bytes(32), b""]
        await store.save(NAME, np.array([1, 2, 3]), unit_vectors(3), hashes)
        assert await store.content_hashes(NAME) == dict(zip([1, 2, 3], hashes, strict=True))

    async def test_every_pattern_of_bytes_survives(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1})
        stored = np.arange(512, dtype=np.uint8).astype("<u1").tobytes()
        store = SqlEmbeddingStore(database, SONGS)
        given = np.frombuffer(stored, dtype="<f2").astype(np.float32)
        given = np.where(np.isfinite(given), given, 0).reshape(1, -1)
        await store.save(NAME, np.array([1]), given, [b""])
        with connection(url) as opened:
            raw = opened.exec_driver_sql("SELECT vector_bytes FROM songs_ai_embedding").scalar_one()
        np.testing.assert_array_equal(np.frombuffer(raw, dtype="<f2"), given[0].astype("<f2"))

    async def test_many_are_saved_and_deleted_at_once(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1})
        store = await saved(database, *range(1, 2501))
        assert len(await store.content_hashes(NAME)) == 2500
        await store.delete(NAME, range(2, 2501))
        assert set(await store.content_hashes(NAME)) == {1}

    async def test_saving_or_deleting_nothing_is_no_error(self, database: Database) -> None:
        store = await saved(database)
        await store.delete(NAME, [])
        assert await store.content_hashes(NAME) == {}

    async def test_a_save_is_all_or_nothing(self, url: str, database: Database) -> None:
        store = await saved(database, 1)
        with pytest.raises(ValueError, match="zip"):
            await store.save(NAME, np.array([2, 3]), unit_vectors(2), digests(1))
        assert set(await store.content_hashes(NAME)) == {1}

    async def test_likes_make_popularity(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1}, {"song_id": 2}, {"song_id": 3})
        like(url, 9, 2, 2, 2, 3)
        rows = await (await saved(database, 1, 2, 3)).load(NAME)
        assert rows.ids[np.argsort(-rows.popularity)].tolist() == [2, 3, 1]

    async def test_a_vector_of_another_length_is_left_out_and_told_of(self, url: str, database: Database) -> None:
        insert_songs(url, *({"song_id": song_id} for song_id in (1, 2, 3)))
        store = await saved(database, 1, 3)
        await store.save(NAME, np.array([2]), unit_vectors(1, dim=DIM * 2), digests(1))
        with capture_logs() as logs:
            assert (await store.load(NAME)).ids.tolist() == [1, 3]
        [told] = [entry for entry in logs if entry["event"] == LogEvent.EMBEDDINGS_LEFT_OUT]
        assert (told["log_level"], told["n"], told["item_ids"], told["dim"]) == ("error", 1, [2], DIM)

    async def test_a_change_to_another_length_takes_the_item_out(self, url: str, database: Database) -> None:
        insert_songs(url, *({"song_id": song_id} for song_id in (1, 2, 3)))
        store = await saved(database, 1, 2, 3)
        mark = (await store.load(NAME)).mark
        assert mark is not None
        await store.save(NAME, np.array([1, 3]), unit_vectors(2), digests(2))
        await store.save(NAME, np.array([2]), unit_vectors(1, dim=DIM * 2), digests(1))
        changes = await store.changes(NAME, mark, 10)
        assert changes is not None
        assert (changes.rows.ids.tolist(), changes.removed.tolist()) == ([1, 3], [2])

    async def test_embedding_again_mends_a_vector_of_another_length(self, url: str, database: Database) -> None:
        insert_songs(url, *({"song_id": song_id, "title_en": f"Song {song_id}"} for song_id in (1, 2, 3)))
        store, embedder, catalogue = (
            SqlEmbeddingStore(database, SONGS),
            HashingEmbedder(),
            SqlCatalogue(database, SONGS),
        )
        await embed_catalogue(catalogue, embedder, store)
        known = await store.content_hashes(embedder.name)
        execute(url, "UPDATE songs_ai_embedding SET vector_bytes = 'ab' WHERE item_id = 2")
        assert await store.content_hashes(embedder.name) == {**known, 2: b""}
        report = await embed_catalogue(catalogue, embedder, store)
        assert (report.n_embedded, report.n_unchanged) == (1, 2)
        assert await store.content_hashes(embedder.name, [1, 2, 3]) == known
        assert (await store.load(embedder.name)).ids.tolist() == [1, 2, 3]

    async def test_the_version_is_the_same_while_nothing_changes(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1}, {"song_id": 2, "is_active": False})
        give_features(url, 1, popularity=0.1)
        give_features(url, 2, popularity=0.2)
        store = await saved(database, 1, 2)
        version = await store.version(NAME)
        another = SqlEmbeddingStore(database, SONGS)
        assert version == await another.version(NAME) == (await store.load(NAME)).version

    async def test_popularity_and_inactive_items_make_no_new_version(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1}, {"song_id": 2, "is_active": False})
        give_features(url, 1, popularity=0.1)
        store = await saved(database, 1)
        version = await store.version(NAME)
        like(url, 9, 1)
        execute(url, "UPDATE songs_ai_item_feature SET popularity = 0.2")
        update_song(url, 2, title_en="Still inactive")
        assert await store.version(NAME) == version

    async def test_the_version_changes_with_every_change(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1}, {"song_id": 2}, {"song_id": 3, "is_active": False})
        give_features(url, 1, popularity=0.1)
        store = await saved(database, 1, 2, 3)
        changes: dict[str, Callable[[], object]] = {
            "deactivated": lambda: update_song(url, 1, is_active=False, modified_at=LONG_AGO),
            "activated": lambda: update_song(url, 3, is_active=True, modified_at=LONG_AGO),
            "changed": lambda: update_song(url, 2, genre="jazz"),
            "swapped": lambda: execute(url, "UPDATE song SET is_active = (song_id = 1) WHERE song_id <> 2"),
            "removed": lambda: execute(url, "DELETE FROM song WHERE song_id = 2"),
            "added": lambda: insert_songs(url, {"song_id": 4}),
        }
        versions = {await store.version(NAME): "before"}
        for name, change in changes.items():
            change()
            version = await store.version(NAME)
            assert version not in versions, f"{name}: the same version as {versions[version]}"
            versions[version] = name
        await store.delete(NAME, [1])
        assert await store.version(NAME) not in versions

    async def test_the_version_changes_with_every_save(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1}, {"song_id": 2})
        store = await saved(database, 1, 2)
        versions = [await store.version(NAME)]
        for _ in range(3):
            await saved(database, 1)
            versions.append(await store.version(NAME))
        assert len(set(versions)) == 4

    async def test_a_second_change_within_the_same_second_is_a_change_too(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1}, {"song_id": 2})
        store = await saved(database, 1, 2)
        update_song(url, 1, genre="jazz", modified_at=LATER)
        between = await store.version(NAME)
        update_song(url, 2, genre="jazz", modified_at=LATER)
        assert await store.version(NAME) != between

    async def test_the_version_is_asked_in_one_round_trip(self, database: Database) -> None:
        store = await saved(database, 1)
        await store.version(NAME)
        with statements_sent() as statements:
            await store.version(NAME)
        assert len(statements) == 1

    async def test_sites_without_modification_dates_have_versions_too(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1})
        profile = SONGS.model_copy(update={"item": SONGS.item.model_copy(update={"modified_at": "no_such"})})
        store = SqlEmbeddingStore(database, profile)
        before = await store.version(NAME)
        execute(url, "UPDATE song SET is_active = 0")
        assert await store.version(NAME) != before

    async def test_saves_at_once_both_count(self, url: str, database: Database) -> None:
        insert_songs(url, *({"song_id": song_id} for song_id in range(1, 5)))
        await asyncio.gather(saved(database, 1, 2), saved(database, 3, 4, seed=3))
        assert (await SqlEmbeddingStore(database, SONGS).load(NAME)).ids.tolist() == [1, 2, 3, 4]

    async def test_the_event_loop_turns_while_many_rows_are_loaded(self, url: str, database: Database) -> None:
        n = 5000
        with connection(url) as opened:
            opened.execute(
                sa.text("INSERT INTO song (song_id, is_active) VALUES (:id, 1)"), [{"id": i + 1} for i in range(n)]
            )
        store = await saved(database, *range(1, n + 1))
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        turning = asyncio.create_task(turn())
        rows = await store.load(NAME)
        turning.cancel()
        assert len(rows.ids) == n
        assert turns >= n / 1000

    async def test_a_deleted_vector_is_gone_though_its_row_is_not(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1}, {"song_id": 2})
        store = await saved(database, 1, 2)
        await store.delete(NAME, [1])
        assert (await store.load(NAME)).ids.tolist() == [2]
        await saved(database, 1)
        assert (await store.load(NAME)).ids.tolist() == [1, 2]

    async def test_content_hashes_of_some_items_alone(self, database: Database) -> None:
        store = await saved(database, 1, 2, 3)
        assert set(await store.content_hashes(NAME, [2, 3, 9])) == {2, 3}
        assert await store.content_hashes(NAME, []) == {}


async def mark_of(store: SqlEmbeddingStore) -> IndexMark:
    mark = (await store.load(NAME)).mark
    assert mark is not None
    return mark


class ChangesTests(WithTables):
    """What has changed since a load, told without loading again."""

    async def test_nothing_changed(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1, "modified_at": None})
        store = await saved(database, 1)
        found = await store.changes(NAME, await mark_of(store), 10)
        assert found is not None
        assert (found.rows.ids.tolist(), found.removed.tolist()) == ([], [])
        assert found.rows.version == await store.version(NAME)

    async def test_new_and_changed_items_come_whole(self, url: str, database: Database) -> None:
        insert_songs(url, *({"song_id": song_id} for song_id in range(1, 9)))
        store = await saved(database, *range(1, 9))
        mark = await mark_of(store)
        update_song(url, 3, genre="jazz, blues", mood="blue", lang="en", artist="A", modified_at=LATER)
        insert_songs(url, {"song_id": 20, "modified_at": LATER})
        give_features(url, 20, popularity=0.75)
        await saved(database, 20)
        found = await store.changes(NAME, mark, 10)
        assert found is not None
        rows = found.rows
        assert (rows.ids.tolist(), found.removed.tolist()) == ([3, 20], [])
        assert (rows.genres[0], rows.moods[0], rows.languages[0], rows.creators[0]) == (
            ("jazz", "blues"),
            ("blue",),
            "en",
            "A",
        )
        np.testing.assert_allclose(rows.popularity, [0, 0.75])
        np.testing.assert_allclose(rows.vectors[1], unit_vectors(1)[0], atol=5e-4)

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE song SET is_active = 0 WHERE song_id = 2",
            "UPDATE song SET is_active = 0, modified_at = '2026-02-01 00:00:00' WHERE song_id = 2",
            "DELETE FROM song WHERE song_id = 2",
        ],
    )
    async def test_items_that_are_gone_are_removed(self, url: str, database: Database, statement: str) -> None:
        insert_songs(url, *({"song_id": song_id} for song_id in range(1, 5)))
        store = await saved(database, 1, 2, 3, 4)
        mark = await mark_of(store)
        execute(url, statement)
        found = await store.changes(NAME, mark, 10)
        assert found is not None
        assert (found.rows.ids.tolist(), found.removed.tolist()) == ([], [2])

    async def test_an_item_activated_by_hand_comes_back(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1}, {"song_id": 2, "is_active": False})
        store = await saved(database, 1, 2)
        mark = await mark_of(store)
        execute(url, "UPDATE song SET is_active = 1 WHERE song_id = 2")
        found = await store.changes(NAME, mark, 10)
        assert found is not None
        assert 2 in found.rows.ids

    async def test_a_deleted_vector_removes_its_item(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1}, {"song_id": 2})
        store = await saved(database, 1, 2)
        mark = await mark_of(store)
        await store.delete(NAME, [2])
        found = await store.changes(NAME, mark, 10)
        assert found is not None
        assert 2 in found.removed

    async def test_too_many_changes_are_not_told_one_by_one(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1})
        store = await saved(database, 1)
        mark = await mark_of(store)
        await saved(database, 2, 3, 4)
        assert await store.changes(NAME, mark, 2) is None

    async def test_the_mark_of_another_store_means_nothing(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1})
        store = await saved(database, 1)
        mark = await mark_of(store)
        assert await store.changes(NAME, replace(mark, origin=mark.origin + 1), 10) is None
        assert await store.changes(NAME, replace(mark, change_no=mark.change_no + 1), 10) is None

    async def test_one_change_after_another_leads_to_what_a_load_says(self, url: str, database: Database) -> None:
        insert_songs(url, *({"song_id": song_id} for song_id in range(1, 4)))
        store = await saved(database, 1, 2, 3)
        held, mark = {1, 2, 3}, await mark_of(store)
        for step in range(4, 9):
            insert_songs(url, {"song_id": step})
            await saved(database, step)
            execute(url, f"DELETE FROM song WHERE song_id = {step - 3}")
            found = await store.changes(NAME, mark, 10)
            assert found is not None
            assert found.rows.mark is not None
            mark = found.rows.mark
            held = (held - set(found.removed.tolist())) | set(found.rows.ids.tolist())
            assert held == set((await store.load(NAME)).ids.tolist())


class TestChangesInMySql(OnMySql, ChangesTests):
    pass


class TestChangesInSqlite(OnSqlite, ChangesTests):
    pass


class TestEmbeddingStoreInMySql(OnMySql, EmbeddingStoreTests):
    pass


class TestEmbeddingStoreInSqlite(OnSqlite, EmbeddingStoreTests):
    pass
