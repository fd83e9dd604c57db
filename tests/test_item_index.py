"""The index against a brute-force oracle, and the swap of one index for the next."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DependencyUnavailable
from core.ports import Floats, Ids, IndexRows, Predicate
from models.catalogue import ItemFacts
from services import scan_queue
from services.index_snapshot import SnapshotDirectory
from services.item_index import InMemoryItemIndex, RefreshingIndex
from services.vector_scan import build_scan
from tests.support.hand_clock import HandClock
from tests.support.waiting import until

T = TypeVar("T")

NAME = "given-1-4"
GENRES = ["rock", "pop", "jazz"]
MOODS = ["calm", "wild"]
LANGUAGES = ["ko", "en", None]


def make_rows(
    vectors: Sequence[Sequence[float]],
    *,
    ids: Sequence[int] | None = None,
    popularity: Sequence[float] | None = None,
    genres: Sequence[tuple[str, ...]] | None = None,
    moods: Sequence[tuple[str, ...]] | None = None,
    languages: Sequence[str | None] | None = None,
    version: str = "v1",
) -> IndexRows:
    n = len(vectors)
    raw = np.array(vectors, dtype=np.float32).reshape(n, len(vectors[0]) if n else 0)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    return IndexRows(
        ids=np.array(ids if ids is not None else range(1, n + 1), dtype=np.int64),
        vectors=np.divide(raw, lengths, out=np.zeros_like(raw), where=lengths > 0),
        popularity=np.array(popularity if popularity is not None else [0.0] * n, dtype=np.float32),
        genres=genres or [()] * n,
        moods=moods or [()] * n,
        languages=languages or [None] * n,
        creators=[f"creator {place}" for place in range(n)],
        version=version,
    )


# Few and small whole numbers, so that equal vectors, opposite ones and zero vectors are common.
small_vectors = st.lists(st.integers(-2, 2).map(float), min_size=4, max_size=4)


@st.composite
def catalogues(draw: st.DrawFn) -> IndexRows:
    ids = sorted(draw(st.sets(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 40), max_size=30)))
    n = len(ids)

    def each(strategy: st.SearchStrategy[T]) -> list[T]:
        return draw(st.lists(strategy, min_size=n, max_size=n))

    return make_rows(
        each(small_vectors),
        ids=ids,
        popularity=each(st.sampled_from([0.0, 0.25, 0.5, 1.0])),
        genres=each(st.lists(st.sampled_from(GENRES), max_size=2, unique=True).map(tuple)),
        moods=each(st.lists(st.sampled_from(MOODS), max_size=2, unique=True).map(tuple)),
        languages=each(st.sampled_from(LANGUAGES)),
    )


predicates = st.builds(
    Predicate,
    genres=st.frozensets(st.sampled_from([*GENRES, "ROCK", "unheard"]), max_size=2),
    moods=st.frozensets(st.sampled_from(MOODS), max_size=2),
    languages=st.frozensets(st.sampled_from(["ko", "en"]), max_size=2),
)


def _matches(rows: IndexRows, place: int, predicate: Predicate | None) -> bool:
    if predicate is None:
        return True
    language = rows.languages[place]
    of_item = (rows.genres[place], rows.moods[place], (language,) if language else ())
    return all(
        not wanted or {value.casefold() for value in wanted} & {value.casefold() for value in has}
        for wanted, has in zip((predicate.genres, predicate.moods, predicate.languages), of_item, strict=True)
    )


def cosines_by_hand(
    rows: IndexRows, query: Sequence[float], excluded: Collection[int], predicate: Predicate | None
) -> dict[int, float]:
    """The cosine of every item that ``search`` may find, one item at a time in double precision."""
    unit = np.array(query, dtype=np.float64) / np.linalg.norm(query)
    return {
        item_id: float(rows.vectors[place].astype(np.float64) @ unit)
        for place, item_id in enumerate(rows.ids.tolist())
        if item_id not in excluded and _matches(rows, place, predicate)
    }


def popular_by_hand(rows: IndexRows, n: int, excluded: Collection[int], max_per_genre: int | None) -> list[int]:
    order = sorted(range(len(rows.ids)), key=lambda place: (-float(rows.popularity[place]), int(rows.ids[place])))
    taken: dict[str, int] = {}
    chosen = []
    for place in order:
        genre = rows.genres[place][0] if rows.genres[place] else None
        if rows.ids[place] in excluded or (
            genre and max_per_genre is not None and taken.get(genre, 0) >= max_per_genre
        ):
            continue
        if genre:
            taken[genre] = taken.get(genre, 0) + 1
        chosen.append(int(rows.ids[place]))
    return chosen[:n]


@given(data=st.data(), rows=catalogues(), n=st.integers(0, 40), predicate=st.none() | predicates)
async def test_search_finds_what_brute_force_finds(
    data: st.DataObject, rows: IndexRows, n: int, predicate: Predicate | None
) -> None:
    query = data.draw(small_vectors.filter(any))
    excluded = data.draw(st.sets(st.sampled_from(rows.ids.tolist() or [1]) | st.integers(0, 40)))
    index = InMemoryItemIndex(rows, NAME)
    [hits] = await index.search(np.array([query], dtype=np.float32), n, excluded=excluded, predicate=predicate)
    cosines = cosines_by_hand(rows, query, excluded, predicate)
    found = list(zip(hits.ids.tolist(), hits.scores.tolist(), strict=True))
    assert len(found) == min(n, len(cosines)) == len(set(hits.ids.tolist()))
    assert [cosines[item_id] for item_id, _ in found] == pytest.approx([score for _, score in found], abs=2e-6)
    assert found == sorted(found, key=lambda hit: (-hit[1], hit[0]))
    left_out = cosines.keys() - set(hits.ids.tolist())
    assert all(cosines[item_id] <= score + 2e-6 for item_id in left_out for _, score in found[-1:])
    assert hits.ids.dtype == np.int64
    assert hits.scores.dtype == np.float32


@given(data=st.data(), rows=catalogues(), n=st.integers(0, 40), max_per_genre=st.none() | st.integers(0, 3))
def test_popular_finds_what_brute_force_finds(
    data: st.DataObject, rows: IndexRows, n: int, max_per_genre: int | None
) -> None:
    excluded = data.draw(st.sets(st.sampled_from(rows.ids.tolist() or [1])))
    found = InMemoryItemIndex(rows, NAME).popular(n, excluded=excluded, max_per_genre=max_per_genre)
    assert found.tolist() == popular_by_hand(rows, n, excluded, max_per_genre)
    assert found.dtype == np.int64


@given(rows=catalogues(), wanted=st.lists(st.integers(0, 40)))
def test_vectors_come_in_the_order_asked_without_the_unknown(rows: IndexRows, wanted: list[int]) -> None:
    ids, vectors = InMemoryItemIndex(rows, NAME).vectors(wanted)
    place = {item_id: row for row, item_id in enumerate(rows.ids.tolist())}
    known = [item_id for item_id in wanted if item_id in place]
    assert ids.tolist() == known
    np.testing.assert_array_equal(vectors, rows.vectors[[place[item_id] for item_id in known]])


@given(rows=catalogues(), data=st.data())
def test_facts_come_in_the_order_asked(rows: IndexRows, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.sampled_from(range(len(rows.ids))))) if len(rows.ids) else []
    facts = InMemoryItemIndex(rows, NAME).facts(rows.ids[places].tolist())
    assert facts == [
        ItemFacts(
            int(rows.ids[place]),
            rows.creators[place],
            rows.genres[place],
            rows.moods[place],
            float(rows.popularity[place]),
        )
        for place in places
    ]


@given(rows=catalogues(), query=small_vectors.filter(any), factor=st.floats(1e-3, 1e3))
async def test_the_length_of_a_query_does_not_matter(rows: IndexRows, query: list[float], factor: float) -> None:
    index = InMemoryItemIndex(rows, NAME)
    [short] = await index.search(np.array([query], dtype=np.float32), 10)
    [long] = await index.search(np.array([query], dtype=np.float32) * np.float32(factor), 10)
    np.testing.assert_allclose(long.scores, short.scores, atol=3e-6)


@pytest.mark.parametrize("query", [[0.0] * 4, [np.nan, 0, 0, 1], [np.inf, 0, 0, 1]])
async def test_a_query_without_direction_finds_nothing(query: list[float]) -> None:
    [hits] = await InMemoryItemIndex(make_rows([[1, 0, 0, 0]]), NAME).search(np.array([query], dtype=np.float32), 5)
    assert (len(hits.ids), len(hits.scores)) == (0, 0)


async def test_an_empty_index_finds_nothing_and_holds_nothing() -> None:
    rows = make_rows([])
    index = InMemoryItemIndex(rows, NAME)
    assert len(index) == 0
    assert [len(hits.ids) for hits in await index.search(np.ones((2, 4), dtype=np.float32), 5)] == [0, 0]
    assert index.popular(5, max_per_genre=1).tolist() == []
    assert index.vectors([1, 2])[0].tolist() == []


async def test_equal_vectors_tie_by_id_wherever_they_stand() -> None:
    vectors = np.random.default_rng(3).normal(size=(1, 100)).repeat(1001, axis=0)
    index = InMemoryItemIndex(make_rows(vectors.tolist()), NAME)
    [hits] = await index.search(vectors[:1].astype(np.float32), 20)
    assert hits.ids.tolist() == list(range(1, 21))
    assert hits.scores.max() <= 1


async def test_a_large_scan_leaves_the_event_loop_free_and_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(4).normal(size=(500, 8))
    index = InMemoryItemIndex(make_rows(vectors.tolist()), NAME)
    query = vectors[7:8].astype(np.float32)
    [in_loop] = await index.search(query, 10)
    monkeypatch.setattr(scan_queue, "_MAX_STEPS_IN_LOOP", 0)
    in_thread = asyncio.create_task(index.search(query, 10))
    await asyncio.sleep(0)
    assert not in_thread.done()
    assert [hits.ids.tolist() for hits in await in_thread] == [in_loop.ids.tolist()]


# --- RefreshingIndex ---


@dataclass
class ScriptedStore:
    """An ``EmbeddingStore`` of one item; its content is what ``version_now`` says, and it fails while ``down``."""

    version_now: str = "v1"
    down: bool = False
    n_versions: int = 0
    n_loads: int = 0

    async def version(self, embedder_name: str) -> str:
        self.n_versions += 1
        self._answer(embedder_name)
        return self.version_now

    async def load(self, embedder_name: str) -> IndexRows:
        self.n_loads += 1
        self._answer(embedder_name)
        return make_rows([[1, 0, 0, 0]], version=self.version_now)

    def _answer(self, embedder_name: str) -> None:
        assert embedder_name == NAME
        if self.down:
            raise DependencyUnavailable("mysql", "gone away")

    async def content_hashes(self, embedder_name: str) -> dict[int, bytes]:
        raise NotImplementedError

    async def save(self, embedder_name: str, ids: Ids, vectors: Floats, content_hashes: Sequence[bytes]) -> None:
        raise NotImplementedError

    async def delete(self, embedder_name: str, item_ids: Collection[int]) -> None:
        raise NotImplementedError


@dataclass
class NotedLoads:
    """An ``IndexObserver`` that remembers."""

    versions: list[str] = field(default_factory=list)

    def index_loaded(self, *, version: str, embedder_name: str, n_items: int, recall: float) -> None:
        assert (embedder_name, n_items, recall) == (NAME, 1, 1.0)
        self.versions.append(version)


@dataclass
class Refreshing:
    """An index and what it stands on."""

    store: ScriptedStore = field(default_factory=ScriptedStore)
    clock: HandClock = field(default_factory=HandClock)
    observer: NotedLoads = field(default_factory=NotedLoads)

    def index(self, refresh_s: float = 0.001) -> RefreshingIndex:
        return RefreshingIndex(self.store, NAME, refresh_s=refresh_s, clock=self.clock, observer=self.observer)


def test_before_the_first_load_the_index_is_unavailable() -> None:
    index = Refreshing().index()
    with pytest.raises(DependencyUnavailable, match="not loaded"):
        index.current()
    assert index.age_s is None


async def test_a_loaded_index_is_in_force_and_told_of() -> None:
    parts = Refreshing()
    index = parts.index()
    await index.load()
    assert (index.current().version, index.current().embedder_name, len(index.current())) == ("v1", NAME, 1)
    assert parts.observer.versions == ["v1"]


async def test_an_unchanged_store_is_not_loaded_again() -> None:
    parts = Refreshing()
    index = parts.index()
    await index.load()
    held = index.current()
    await index.refresh()
    assert (parts.store.n_loads, parts.store.n_versions) == (1, 1)
    assert index.current() is held


async def test_a_changed_store_swaps_the_index_and_leaves_the_old_one_whole() -> None:
    parts = Refreshing()
    index = parts.index()
    await index.load()
    held = index.current()
    parts.store.version_now = "v2"
    await index.refresh()
    assert index.current().version == "v2"
    assert held.version == "v1"
    assert parts.observer.versions == ["v1", "v2"]


async def test_the_age_counts_from_the_last_time_that_the_store_was_asked() -> None:
    parts = Refreshing()
    index = parts.index()
    await index.load()
    parts.clock.move(40)
    assert index.age_s == 40
    await index.refresh()
    assert index.age_s == 0


async def test_a_load_that_fails_changes_nothing() -> None:
    parts = Refreshing()
    index = parts.index()
    await index.load()
    held = index.current()
    parts.store.version_now, parts.store.down = "v2", True
    parts.clock.move(5)
    with pytest.raises(DependencyUnavailable):
        await index.refresh()
    assert index.current() is held
    assert index.age_s == 5


async def test_a_store_that_was_away_is_followed_again_when_it_is_back() -> None:
    parts = Refreshing()
    index = parts.index()
    await index.load()
    running = asyncio.create_task(index.run())
    parts.store.version_now, parts.store.down = "v2", True
    asked = parts.store.n_versions

    async def asked_twice() -> bool:
        return parts.store.n_versions >= asked + 2

    async def swapped() -> bool:
        return index.current().version == "v2"

    await until(asked_twice)
    assert index.current().version == "v1"
    parts.store.down = False
    await until(swapped)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_refreshing_begins_even_where_the_first_load_failed() -> None:
    parts = Refreshing(store=ScriptedStore(down=True))
    index = parts.index()
    with pytest.raises(DependencyUnavailable):
        await index.load()
    parts.store.down = False
    await index.refresh()
    assert index.current().version == "v1"


async def test_what_is_new_is_embedded_before_a_changed_store_is_loaded() -> None:
    parts = Refreshing()
    noted: list[str] = []

    async def embed() -> None:
        noted.append(parts.store.version_now)
        parts.store.version_now = "v3"

    index = RefreshingIndex(
        parts.store, NAME, refresh_s=1, clock=parts.clock, observer=parts.observer, before_load=embed
    )
    await index.load()
    await index.refresh()
    await index.refresh()
    assert (noted, index.current().version) == (["v1"], "v3")
    parts.store.version_now = "v2"
    await index.refresh()
    assert (noted, index.current().version) == (["v1", "v2"], "v3")


async def test_one_process_loads_and_the_others_map_its_snapshot(tmp_path: Path) -> None:
    first, second = Refreshing(), Refreshing()
    for parts in (first, second):
        snapshots = SnapshotDirectory(tmp_path, NAME)
        index = RefreshingIndex(
            parts.store, NAME, refresh_s=1, clock=parts.clock, observer=parts.observer, snapshots=snapshots
        )
        await index.load()
        assert (index.current().version, index.current().facts([1])[0].creator) == ("v1", "creator 0")
    assert (first.store.n_loads, second.store.n_loads) == (1, 0)


async def test_without_room_for_a_file_the_index_is_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    parts = Refreshing()
    snapshots = SnapshotDirectory(tmp_path / "file" / "below", NAME)
    index = RefreshingIndex(
        parts.store, NAME, refresh_s=1, clock=parts.clock, observer=parts.observer, snapshots=snapshots
    )
    await index.load()
    assert index.current().version == "v1"


async def test_a_predicate_keeps_its_items_in_a_large_index_too() -> None:
    rows = make_rows(
        np.random.default_rng(2).normal(size=(600, 4)).tolist(), genres=[("rock",), ("pop",), ("Rock", "pop")] * 200
    )
    index = InMemoryItemIndex(rows, NAME, build_scan(rows.vectors, exact_below=100))
    predicate = Predicate(genres=frozenset({"ROCK"}))
    [first], [again] = [
        await index.search(rows.vectors[:1].astype(np.float32), 30, excluded=[1, 3], predicate=predicate)
        for _ in range(2)
    ]
    assert first.ids.tolist() == again.ids.tolist()
    assert len(first.ids) == 30
    assert not {1, 3} & set(first.ids.tolist())
    assert all((item_id - 1) % 3 != 1 for item_id in first.ids.tolist())
