"""The two kinds of scan: the same neighbours, found exactly or by codes."""

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ports.arrays import Floats
from services import scan_queue, vector_scan
from services.scan_queue import QueuedScan
from services.vector_scan import (
    RECALL_AIM,
    ExactScan,
    FastScan,
    Found,
    GatheredScan,
    Places,
    Tuning,
    VectorScan,
    build_products_scan,
    build_scan,
    part_at_once,
)
from tests.support.clustered import clustered_rows

DIM = 32


@pytest.fixture(scope="module")
def rows() -> Floats:
    return clustered_rows(6000, DIM)


@pytest.fixture(scope="module")
def fast(rows: Floats) -> VectorScan:
    return build_scan(rows, exact_below=1000)


def queries_near(rows: Floats, n: int = 20) -> Floats:
    generator = np.random.default_rng(8)
    dim = rows.shape[1]
    mixed = rows[generator.integers(len(rows), size=n)] + generator.normal(size=(n, dim)) * 0.5 / np.sqrt(dim)
    unit: Floats = (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)
    return unit


def unlike_pairs(rows: Floats, n: int = 20) -> Floats:
    generator = np.random.default_rng(9)
    mixed = rows[generator.integers(len(rows), size=(n, 2))].sum(axis=1)
    unit: Floats = (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)
    return unit


def recall(found: Sequence[Found], true: Sequence[Found]) -> float:
    return float(np.mean([np.isin(one[0], other[0]).mean() for one, other in zip(true, found, strict=True)]))


def test_few_rows_are_scanned_exactly_and_many_by_codes(rows: Floats, fast: VectorScan) -> None:
    assert (build_scan(rows).kind, fast.kind) == ("exact", "fastscan")


def test_codes_find_what_an_exact_scan_finds(rows: Floats, fast: VectorScan) -> None:
    queries = queries_near(rows)
    assert fast.recall >= RECALL_AIM
    assert recall(fast.search(queries, 200), ExactScan(rows).search(queries, 200)) >= 0.98


def test_the_scores_are_cosines_falling_and_ties_rise_by_place(rows: Floats, fast: VectorScan) -> None:
    [query] = queries_near(rows, 1)
    [(places, scores)] = fast.search(query[None], 50)
    np.testing.assert_allclose(scores, rows[places] @ query, atol=1e-3)
    found = list(zip(scores.tolist(), places.tolist(), strict=True))
    assert found == sorted(found, key=lambda hit: (-hit[0], hit[1]))


def test_equal_rows_are_cut_by_place() -> None:
    rows = clustered_rows(3000, DIM)
    rows[1500:1510] = rows[7]
    scan = build_scan(rows, exact_below=1000)
    [(places, _)] = scan.search(rows[7:8], 6)
    assert places.tolist() == [7, 1500, 1501, 1502, 1503, 1504]


@given(
    st.lists(st.floats(-1.125, 1.125, width=32) | st.sampled_from([0.25, 0.2500001, 0.25001, 1.0]), max_size=60),
    st.integers(0, 70),
)
def test_the_best_are_those_of_the_highest_rounded_scores_and_of_equal_ones_the_foremost(
    scores: list[float], n: int
) -> None:
    steps = np.rint(np.clip(np.array(scores, np.float32), -1, 1) * 2.0**20)
    order = np.lexsort((np.arange(len(steps)), -steps))[:n]
    places, rounded = vector_scan._best(np.array(scores, np.float32), n)
    np.testing.assert_array_equal(places, order)
    np.testing.assert_array_equal(rounded, (steps[order] / 2**20).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_that_are_scanned_exactly_begin_with_a_cache_line(dtype: npt.DTypeLike) -> None:
    rows = clustered_rows(3, DIM).astype(dtype)
    kept = ExactScan(rows).rows
    assert kept.ctypes.data % 64 == 0
    np.testing.assert_array_equal(kept, rows.astype(np.float32))


@pytest.fixture(scope="module")
def parted_rows() -> Floats:
    """In few clusters, and so many numbers that it is worth while to look at some of them only."""
    return clustered_rows(24_000, 128, size=600, seed=5)


@pytest.fixture(scope="module")
def lists(parted_rows: Floats) -> VectorScan:
    return build_scan(parted_rows)


def test_well_parted_clusters_are_kept_in_lists_and_found_all_the_same(parted_rows: Floats, lists: VectorScan) -> None:
    assert lists.kind == "fastscan_lists"
    exact = ExactScan(parted_rows)
    for queries in (queries_near(parted_rows), unlike_pairs(parted_rows)):
        assert recall(lists.search(queries, 200), exact.search(queries, 200)) >= 0.98


def test_few_numbers_are_not_worth_lists() -> None:
    assert build_scan(clustered_rows(24_000, DIM, size=600, seed=5)).kind == "fastscan"


def test_what_lies_near_unlike_likes_is_found_too(rows: Floats, fast: VectorScan) -> None:
    queries = unlike_pairs(rows)
    assert recall(fast.search(queries, 200), ExactScan(rows).search(queries, 200)) >= 0.98


def test_the_recall_told_is_that_of_the_kind_of_query_that_fares_worst(rows: Floats) -> None:
    sample = vector_scan._Sample(rows, rows, seed=1)
    shares = np.ones(len(sample.queries))
    shares[-vector_scan._N_OF_A_KIND :] = 0.5
    assert sample.worst(shares) == 0.5


def test_the_least_k_factor_that_finds_enough_is_taken(rows: Floats, fast: VectorScan) -> None:
    assert isinstance(fast, FastScan)
    least = vector_scan._K_FACTORS.index(fast.tuning.k_factor)
    sample = vector_scan._Sample(rows, rows, seed=0)
    for k_factor in vector_scan._K_FACTORS[max(least - 1, 0) : least + 1]:
        scan = FastScan(fast._codes, fast._rows, Tuning(k_factor, 0))
        parameters = vector_scan._parameters(scan.tuning, 200, 0)
        recall_then = sample.recall(scan._refined.search(sample.queries, 200, params=parameters)[0])
        assert (recall_then >= vector_scan._SAMPLE_AIM) == (k_factor == fast.tuning.k_factor)
    assert fast.recall == recall_then


def test_candidates_are_not_multiplied_by_what_is_left_out() -> None:
    tuning = Tuning(k_factor=4.0, n_probes=3)
    few, many = (vector_scan._parameters(tuning, 200, n_besides) for n_besides in (0, 300))
    assert few.k_factor * 200 == pytest.approx(800)
    assert many.k_factor * 500 == pytest.approx(1100)


# --- parts ---


@pytest.fixture
def small_parts_have_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_scan, "_PART_EXACT_BELOW", 1000)


@pytest.mark.usefixtures("small_parts_have_codes")
@pytest.mark.parametrize("whole", ["fast", "lists"])
def test_a_part_finds_what_an_exact_scan_of_it_finds(whole: str, request: pytest.FixtureRequest) -> None:
    scan: VectorScan = request.getfixturevalue(whole)
    rows = scan.rows.astype(np.float32)
    places = np.flatnonzero(rows[:, 0] > 0)
    part = scan.part(places)
    # From both sides: those that ask are not of the part alone.
    queries = np.concatenate([queries_near(rows[rows[:, 0] < -0.1]), queries_near(rows), unlike_pairs(rows)])
    assert (part.kind, len(part.rows)) == ("fastscan", len(places))
    assert part.recall >= RECALL_AIM
    assert recall(part.search(queries, 200), ExactScan(rows[places]).search(queries, 200)) >= 0.98


@pytest.mark.usefixtures("small_parts_have_codes")
def test_a_part_leaves_the_whole_as_it_was(rows: Floats, fast: VectorScan) -> None:
    queries = queries_near(rows)
    before = fast.search(queries, 100)
    fast.part(np.arange(0, len(rows), 2))
    for one, other in zip(before, fast.search(queries, 100), strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_a_small_part_is_scanned_exactly(fast: VectorScan) -> None:
    assert fast.part(np.arange(300)).kind == "exact"


def test_a_small_part_is_there_at_once(fast: VectorScan) -> None:
    assert not isinstance(part_at_once(fast, np.arange(300)), GatheredScan)
    assert not isinstance(part_at_once(ExactScan(fast.rows), np.arange(len(fast.rows))), GatheredScan)


@pytest.mark.usefixtures("small_parts_have_codes")
@pytest.mark.parametrize("whole", ["fast", "lists"])
def test_what_stands_in_for_a_part_finds_what_an_exact_scan_of_it_finds(
    whole: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_scan, "_GATHERED_CHUNK", 700)
    scan: VectorScan = request.getfixturevalue(whole)
    places = np.flatnonzero(scan.rows[:, 0] > 0)
    gathered, exact = part_at_once(scan, places), ExactScan(scan.rows[places])
    assert isinstance(gathered, GatheredScan)
    assert (gathered.kind, gathered.recall, gathered.n_bytes) == ("exact", 1.0, places.nbytes)
    np.testing.assert_array_equal(gathered.rows, scan.rows[places])
    queries = queries_near(scan.rows.astype(np.float32))[:8]
    for one, other in zip(gathered.search(queries, 50, 7), exact.search(queries, 50, 7), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_allclose(one[1], other[1], atol=3e-6)
    of_part = gathered.part(np.array([3, 5]))
    np.testing.assert_array_equal(of_part.rows, scan.rows[places[[3, 5]]])


def test_what_stands_in_for_a_part_is_searched_off_the_event_loop(fast: VectorScan) -> None:
    """It costs more than the codes of the same rows, and more than the loop should wait for."""
    n = 1_500_000 // fast.rows.shape[1]
    assert GatheredScan(fast.rows, np.arange(n)).cost_us > scan_queue._MAX_IN_LOOP_US


def test_an_empty_part_finds_nothing(fast: VectorScan, rows: Floats) -> None:
    [(places, scores)] = fast.part(np.zeros(0, dtype=np.int64)).search(rows[:1], 5)
    assert (len(places), len(scores)) == (0, 0)


def test_more_may_be_asked_for_than_one_list_holds(parted_rows: Floats, lists: VectorScan) -> None:
    [(places, _)] = lists.search(parted_rows[:1], 3000)
    assert len(places) == len(set(places.tolist())) == 3000


@pytest.mark.parametrize("exact_below", [100, 10_000])
def test_what_is_asked_for_besides_comes_after_the_rest(exact_below: int) -> None:
    rows = clustered_rows(3000, DIM)
    scan = build_scan(rows, exact_below=exact_below)
    [(places, _)], [(more, _)] = scan.search(rows[:1], 200), scan.search(rows[:1], 200, 50)
    assert (len(places), len(more)) == (200, 250)
    assert np.isin(places, more[:210]).mean() >= 0.98


def test_the_same_rows_give_the_same_scan(rows: Floats, fast: VectorScan) -> None:
    again = build_scan(rows, exact_below=1000)
    assert isinstance(again, FastScan)
    assert isinstance(fast, FastScan)
    assert again.tuning == fast.tuning
    for one, other in zip(again.search(queries_near(rows), 50), fast.search(queries_near(rows), 50), strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_a_query_finds_the_same_alone_and_among_others(rows: Floats, fast: VectorScan) -> None:
    queries = queries_near(rows, 40)
    for query, (places, scores) in zip(queries, fast.search(queries, 100), strict=True):
        [(alone, alone_scores)] = fast.search(query[None], 100)
        np.testing.assert_array_equal(alone, places)
        np.testing.assert_array_equal(alone_scores, scores)


def test_where_codes_tell_nothing_apart_the_scan_is_exact() -> None:
    noise = np.random.default_rng(1).normal(size=(30_000, 256)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    scan = build_scan(noise, exact_below=1000)
    assert scan.kind == "exact" or scan.recall >= RECALL_AIM


# --- many at once ---


class HeldScan:
    """A scan that waits until it is let go, and notes for how many it searches at the same time."""

    kind, recall, cost_us, n_bytes = "fastscan", 1.0, 1.0, 0

    def __init__(self, rows: Floats) -> None:
        self.rows = rows
        self.begun, self.let_go = threading.Event(), threading.Event()
        self.n_searches = self.n_at_once = self.most_at_once = 0
        self.broken = False

    def part(self, places: Places) -> VectorScan:
        return ExactScan(self.rows[places])

    def search(self, units: Floats, n: int, n_besides: int = 0) -> list[Found]:
        self.n_searches += 1
        self.n_at_once += 1
        self.most_at_once = max(self.most_at_once, self.n_at_once)
        self.begun.set()
        assert self.let_go.wait(10)
        self.n_at_once -= 1
        if self.broken:
            raise RuntimeError("broken")
        return ExactScan(self.rows).search(units, n, n_besides)


@pytest.fixture
def held(rows: Floats, monkeypatch: pytest.MonkeyPatch) -> HeldScan:
    monkeypatch.setattr(scan_queue, "_MAX_IN_LOOP_US", 0)
    return HeldScan(rows)


async def begin(queue: QueuedScan, held: HeldScan, queries: Floats) -> list[asyncio.Task[list[Found]]]:
    """The first query searched for, all others waiting behind it."""
    first = asyncio.create_task(queue.search(queries[:1], 5))
    assert await asyncio.to_thread(held.begun.wait, 10)
    others = [asyncio.create_task(queue.search(query[None], 5)) for query in queries[1:]]
    await asyncio.sleep(0)
    return [first, *others]


async def test_searches_are_made_one_after_the_other_and_each_gets_its_own(held: HeldScan) -> None:
    queries = queries_near(held.rows, 9)
    searches = await begin(QueuedScan(held), held, queries)
    held.let_go.set()
    for search, (places, _) in zip(searches, ExactScan(held.rows).search(queries, 5), strict=True):
        np.testing.assert_array_equal((await search)[0][0], places)
    assert (held.n_searches, held.most_at_once) == (9, 1)


async def test_who_asked_first_is_served_first(held: HeldScan) -> None:
    searches = await begin(QueuedScan(held), held, queries_near(held.rows, 6))
    served: list[asyncio.Task[list[Found]]] = []
    for search in searches:
        search.add_done_callback(served.append)
    held.let_go.set()
    await asyncio.gather(*searches)
    await asyncio.sleep(0)
    assert served == searches


async def test_the_event_loop_goes_on_meanwhile(held: HeldScan) -> None:
    [search] = await begin(QueuedScan(held), held, queries_near(held.rows, 1))
    await asyncio.sleep(0)
    assert not search.done()
    held.let_go.set()
    assert len(await search) == 1


async def test_a_short_search_needs_no_thread(held: HeldScan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_queue, "_MAX_IN_LOOP_US", 2 * held.cost_us)
    held.let_go.set()
    searching = QueuedScan(held).search(queries_near(held.rows, 2), 5)
    with pytest.raises(StopIteration) as ended:
        searching.send(None)
    assert len(ended.value.value) == 2


async def test_a_search_that_is_given_up_leaves_the_others_alone(held: HeldScan) -> None:
    searches = await begin(QueuedScan(held), held, queries_near(held.rows, 4))
    searches[0].cancel()
    searches[2].cancel()
    held.let_go.set()
    assert len(await searches[1]) == len(await searches[3]) == 1
    assert held.n_searches == 3


async def test_a_scan_that_fails_fails_those_who_wait_and_no_later_one(held: HeldScan) -> None:
    queue = QueuedScan(held)
    held.broken = True
    searches = await begin(queue, held, queries_near(held.rows, 3))
    held.let_go.set()
    for search in searches:
        with pytest.raises(RuntimeError, match="broken"):
            await search
    held.broken = False
    assert len(await queue.search(held.rows[:1], 5)) == 1


def test_the_bytes_of_a_scan_are_those_of_its_rows_and_codes(rows: Floats, fast: VectorScan) -> None:
    assert ExactScan(rows).n_bytes == len(rows) * DIM * 4
    assert fast.n_bytes == len(rows) * (DIM * 2 + DIM // 4)


def test_among_rows_the_same_query_gets_the_same_scores_alone_and_with_others(rows: Floats) -> None:
    queries, scan = queries_near(rows, 5), ExactScan(rows)
    for (places, scores), query in zip(scan.search(queries, 50), queries, strict=True):
        [(alone, alone_scores)] = scan.search(query[None], 50)
        np.testing.assert_array_equal(places, alone)
        np.testing.assert_array_equal(scores, alone_scores)


def of_many_lengths(rows: Floats) -> npt.NDArray[np.float16]:
    lengths = np.random.default_rng(3).lognormal(sigma=0.8, size=(len(rows), 1))
    uneven: npt.NDArray[np.float16] = (rows * lengths / lengths.max()).astype(np.float16)
    return uneven


def three_kinds_near(rows: Floats) -> Floats:
    return np.concatenate([queries_near(rows, 128), unlike_pairs(rows, 64)])


def test_codes_of_rows_of_many_lengths_fit_the_long_ones_which_are_what_is_found(
    rows: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_scan, "_N_TRAINING", 1000)
    uneven, queries = of_many_lengths(rows), three_kinds_near(rows)
    scan, _ = build_products_scan(uneven, queries)
    monkeypatch.setattr(vector_scan, "_square_lengths", lambda rows: np.ones(len(rows)))
    whatever, _ = build_products_scan(uneven, queries)
    assert isinstance(scan, FastScan)
    assert isinstance(whatever, FastScan)
    assert scan.recall >= 0.991
    assert scan.tuning.k_factor < whatever.tuning.k_factor


def test_rows_too_short_to_be_found_are_not_held_and_the_best_are_found_all_the_same(
    rows: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_scan, "_LEAST_HELD", 500)
    uneven, queries = of_many_lengths(rows), three_kinds_near(rows)
    scan, places = build_products_scan(uneven, queries)
    assert 500 <= len(places) < 0.8 * len(rows)
    assert np.all(np.diff(places) > 0)
    np.testing.assert_array_equal(scan.rows, uneven[places])
    lengths = np.linalg.norm(uneven.astype(np.float32), axis=1)
    assert lengths[places].min() >= np.delete(lengths, places).max()
    # Of the rows as a whole, and of other queries than those it was tuned by.
    others = queries_near(rows, 180)[128:]
    true = ExactScan(uneven).search(others, 200)
    found = [(places[of_held], scores) for of_held, scores in scan.search(others, 200)]
    assert recall(found, true) >= 0.98
    assert scan.recall >= 0.991


def test_the_recall_told_counts_what_was_left_out_as_not_found(rows: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    uneven, queries = of_many_lengths(rows), three_kinds_near(rows)
    whole, _ = build_products_scan(uneven, queries, aims=(0.5,))
    monkeypatch.setattr(vector_scan, "_LEAST_HELD", 400)
    monkeypatch.setattr(vector_scan, "_LENGTHS_AIM", 0.6)
    some, places = build_products_scan(uneven, queries, aims=(0.5,))
    assert len(places) < 3000
    assert 0.5 <= some.recall < 0.9 < whole.recall


def test_few_rows_are_all_held_however_short(rows: Floats) -> None:
    _, places = build_products_scan(of_many_lengths(rows), three_kinds_near(rows))
    np.testing.assert_array_equal(places, np.arange(len(rows)))


def test_rows_of_one_length_are_all_held(rows: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_scan, "_LEAST_HELD", 500)
    _, places = build_products_scan(rows.astype(np.float16), three_kinds_near(rows))
    assert len(places) >= 0.95 * len(rows)


def test_the_highest_aim_that_codes_can_reach_is_enough(rows: Floats) -> None:
    uneven, queries = of_many_lengths(rows), three_kinds_near(rows)
    high, _ = build_products_scan(uneven, queries, aims=(1.1, 0.98, 0.5))
    low, _ = build_products_scan(uneven, queries, aims=(0.5,))
    assert isinstance(high, FastScan)
    assert isinstance(low, FastScan)
    assert high.recall >= 0.98
    assert high.tuning.k_factor > low.tuning.k_factor


def test_where_codes_find_too_little_all_rows_are_scanned(rows: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_scan, "_LEAST_HELD", 500)
    uneven = of_many_lengths(rows)
    scan, places = build_products_scan(uneven, three_kinds_near(rows), aims=(1.1,))
    assert (scan.kind, scan.recall, len(scan.rows)) == ("exact", 1.0, len(rows))
    np.testing.assert_array_equal(places, np.arange(len(rows)))


def test_rows_of_no_length_can_be_scanned_by_codes() -> None:
    nothing = np.zeros((400, DIM), np.float16)
    scan, _ = build_products_scan(nothing, three_kinds_near(clustered_rows(400, DIM)))
    [(places, _)] = scan.search(np.ones((1, DIM), np.float32) / np.float32(np.sqrt(DIM)), 5)
    assert len(places) == 5
