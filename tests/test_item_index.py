"""The index against a brute-force oracle."""

import asyncio
import threading
from collections.abc import Collection, Sequence
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ports.index import IndexRows, Predicate
from models.catalogue import ItemFacts
from services import scan_queue, vector_scan
from services.item_index import InMemoryItemIndex
from services.vector_scan import FastScan, GatheredScan, Places, VectorScan, build_scan
from tests.support.clustered import clustered_rows
from tests.support.index_rows import make_rows

T = TypeVar("T")

NAME = "given-1-4"
GENRES = ["rock", "pop", "jazz"]
MOODS = ["calm", "wild"]
LANGUAGES = ["ko", "en", None]


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
async def test_popular_finds_what_brute_force_finds(
    data: st.DataObject, rows: IndexRows, n: int, max_per_genre: int | None
) -> None:
    excluded = data.draw(st.sets(st.sampled_from(rows.ids.tolist() or [1])))
    found = await InMemoryItemIndex(rows, NAME).popular(n, excluded=excluded, max_per_genre=max_per_genre)
    assert found.tolist() == popular_by_hand(rows, n, excluded, max_per_genre)
    assert found.dtype == np.int64


@given(rows=catalogues(), wanted=st.lists(st.integers(0, 40)))
async def test_vectors_come_in_the_order_asked_without_the_unknown(rows: IndexRows, wanted: list[int]) -> None:
    ids, vectors = await InMemoryItemIndex(rows, NAME).vectors(wanted)
    place = {item_id: row for row, item_id in enumerate(rows.ids.tolist())}
    known = [item_id for item_id in wanted if item_id in place]
    assert ids.tolist() == known
    np.testing.assert_array_equal(vectors, rows.vectors[[place[item_id] for item_id in known]])


@given(rows=catalogues(), data=st.data())
async def test_facts_come_in_the_order_asked(rows: IndexRows, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.sampled_from(range(len(rows.ids))))) if len(rows.ids) else []
    facts = await InMemoryItemIndex(rows, NAME).facts(rows.ids[places].tolist())
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
    assert (await index.popular(5, max_per_genre=1)).tolist() == []
    assert (await index.vectors([1, 2]))[0].tolist() == []


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
    monkeypatch.setattr(scan_queue, "_MAX_IN_LOOP_US", 0)
    in_thread = asyncio.create_task(index.search(query, 10))
    await asyncio.sleep(0)
    assert not in_thread.done()
    assert [hits.ids.tolist() for hits in await in_thread] == [in_loop.ids.tolist()]


async def test_others_have_their_turn_before_the_facts_are_used() -> None:
    index = InMemoryItemIndex(make_rows([[1, 0], [0, 1]]), NAME)
    turns: list[str] = []

    async def note(name: str) -> None:
        turns.append(name)

    other = asyncio.create_task(note("another task"))
    await index.facts([1, 2])
    turns.append("the one that asked")
    await other
    assert turns == ["another task", "the one that asked"]


async def test_a_search_finds_the_same_alone_and_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_queue, "_MAX_IN_LOOP_US", 0)
    vectors = clustered_rows(2000, 16)
    index = InMemoryItemIndex(make_rows(vectors.tolist()), NAME, build_scan(vectors, exact_below=100))
    excluded = [range(1 + place, 40, 3) for place in range(12)]
    alone = [await index.search(vectors[[place]], 30, excluded=excluded[place]) for place in range(12)]
    among = await asyncio.gather(
        *(index.search(vectors[[place]], 30, excluded=excluded[place]) for place in range(12)),
        *(index.search(vectors[place : place + 3], 20) for place in range(0, 60, 3)),
    )
    for [one], [other] in zip(alone, among[:12], strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.scores.tolist() == other.scores.tolist()
        assert len(one.ids) == 30


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


# --- what is remembered of predicates ---

ROCK, POP, JAZZ = (Predicate(genres=frozenset({genre})) for genre in GENRES)


def three_genres() -> IndexRows:
    """200 items of each genre: a slice takes 200 x (8 bytes of ids + 4 numbers of 4 bytes)."""
    vectors = np.random.default_rng(6).normal(size=(600, 4))
    return make_rows(vectors.tolist(), genres=[(genre,) for genre in GENRES] * 200)


async def builds(index: InMemoryItemIndex, predicate: Predicate, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a search by ``predicate`` had to build its slice."""
    built: list[Predicate] = []
    build = index._build_slice

    def noted(asked: Predicate) -> object:
        built.append(asked)
        return build(asked)

    with monkeypatch.context() as patched:
        patched.setattr(index, "_build_slice", noted)
        [hits] = await index.search(np.ones((1, 4), dtype=np.float32), 5, predicate=predicate)
    assert len(hits.ids) == 5
    return built == [predicate]


async def test_slices_are_remembered_up_to_their_bytes_and_the_longest_unasked_goes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index = InMemoryItemIndex(three_genres(), NAME, max_slices_bytes=2 * 200 * (8 + 16))
    asked = [ROCK, POP, ROCK, JAZZ, ROCK, JAZZ, POP, ROCK]
    assert [await builds(index, each, monkeypatch) for each in asked] == [
        *(True, True, False),
        # Room is for two: jazz takes the place of pop, which was not asked for again; then pop that of rock.
        *(True, False, False),
        *(True, True),
    ]


async def test_the_last_slice_is_remembered_however_large_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    index = InMemoryItemIndex(three_genres(), NAME, max_slices_bytes=1)
    asked = [ROCK, ROCK, POP, POP, ROCK]
    assert [await builds(index, each, monkeypatch) for each in asked] == [True, False, True, False, True]


async def test_many_that_ask_by_a_new_predicate_wait_for_one_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    index = InMemoryItemIndex(three_genres(), NAME)
    n_built = 0
    build = index._build_slice

    def counted(asked: Predicate) -> object:
        nonlocal n_built
        n_built += 1
        return build(asked)

    monkeypatch.setattr(index, "_build_slice", counted)
    query = np.ones((1, 4), dtype=np.float32)
    searches = [asyncio.create_task(index.search(query, 5, predicate=JAZZ)) for _ in range(8)]
    await asyncio.sleep(0)
    # Who gives up takes the slice from nobody.
    searches[0].cancel()
    found = await asyncio.gather(*searches[1:])
    assert n_built == 1
    assert len({tuple(hits.ids.tolist()) for [hits] in found}) == 1


async def test_a_slice_that_could_not_be_built_is_built_at_the_next_search(monkeypatch: pytest.MonkeyPatch) -> None:
    index = InMemoryItemIndex(three_genres(), NAME)

    def broken(_: Predicate) -> object:
        raise MemoryError

    query = np.ones((1, 4), dtype=np.float32)
    with monkeypatch.context() as patched:
        patched.setattr(index, "_build_slice", broken)
        with pytest.raises(MemoryError):
            await index.search(query, 5, predicate=JAZZ)
    [hits] = await index.search(query, 5, predicate=JAZZ)
    assert len(hits.ids) == 5


@pytest.fixture
def slow_parts(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Parts of an index get codes, however small, which are not ready before the event is set."""
    monkeypatch.setattr(vector_scan, "_PART_EXACT_BELOW", 1000)
    may_end = threading.Event()
    part = FastScan.part

    def waiting(scan: FastScan, places: Places) -> VectorScan:
        assert may_end.wait(5)
        return part(scan, places)

    monkeypatch.setattr(FastScan, "part", waiting)
    return may_end


def two_genres() -> InMemoryItemIndex:
    vectors = clustered_rows(4000, 16)
    rows = make_rows(vectors.tolist(), genres=[("rock",), ("pop",)] * 2000)
    return InMemoryItemIndex(rows, NAME, build_scan(rows.vectors, exact_below=100))


ROCK, POP = (Predicate(genres=frozenset({genre})) for genre in ("rock", "pop"))


async def test_the_first_search_by_a_predicate_does_not_wait_for_codes(slow_parts: threading.Event) -> None:
    index, query = two_genres(), clustered_rows(1, 16)
    [first] = await index.search(query, 50, predicate=ROCK)
    kept = np.arange(1, 4001, 2)
    _, vectors = await index.vectors(kept.tolist())
    assert set(first.ids.tolist()) == set(kept[np.argsort(-(vectors @ query[0]))[:50]].tolist())
    assert isinstance(index._slices[ROCK].scan._scan, GatheredScan)
    slow_parts.set()
    await index.settle()
    assert isinstance(index._slices[ROCK].scan._scan, FastScan)
    [then] = await index.search(query, 50, predicate=ROCK)
    assert len(set(first.ids.tolist()) & set(then.ids.tolist())) >= 48


async def test_a_slice_that_was_forgotten_meanwhile_does_not_come_back(slow_parts: threading.Event) -> None:
    index, query = two_genres(), clustered_rows(1, 16)
    index._max_slices_bytes = 1
    await index.search(query, 50, predicate=ROCK)
    await index.search(query, 50, predicate=POP)
    slow_parts.set()
    await index.settle()
    assert list(index._slices) == [POP]
    assert isinstance(index._slices[POP].scan._scan, FastScan)
