"""The two kinds of scan: the same neighbours, found exactly or by codes."""

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from core.ports import Floats
from services import scan_queue
from services.scan_queue import QueuedScan
from services.vector_scan import RECALL_AIM, ExactScan, FastScan, Found, VectorScan, build_scan
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
    mixed = rows[generator.integers(len(rows), size=n)] + generator.normal(size=(n, DIM)) * 0.5 / np.sqrt(DIM)
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


def test_well_parted_clusters_are_kept_in_lists_and_found_all_the_same() -> None:
    rows = clustered_rows(24_000, DIM, size=600, seed=5)
    scan = build_scan(rows)
    queries = queries_near(rows)
    assert scan.kind == "fastscan_lists"
    assert recall(scan.search(queries, 200), ExactScan(rows).search(queries, 200)) >= 0.98


def test_lists_are_not_used_where_queries_come_from_elsewhere() -> None:
    everything = clustered_rows(48_000, DIM, size=600, seed=5)
    rows = everything[everything[:, 0] > 0]
    scan = build_scan(rows, asked_like=everything)
    queries = queries_near(everything[everything[:, 0] < -0.1])
    assert recall(scan.search(queries, 200), ExactScan(rows).search(queries, 200)) >= 0.98


def test_more_may_be_asked_for_than_one_list_holds() -> None:
    rows = clustered_rows(24_000, DIM, size=600, seed=5)
    [(places, _)] = build_scan(rows).search(rows[:1], 3000)
    assert len(places) == len(set(places.tolist())) == 3000


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
    """A scan that waits until it is let go, and notes how many queries it is asked at once."""

    kind, recall, n_steps = "fastscan", 1.0, 1

    def __init__(self, rows: Floats) -> None:
        self.rows = rows
        self.sizes: list[int] = []
        self.begun, self.let_go = threading.Event(), threading.Event()
        self.broken = False

    def search(self, units: Floats, n: int) -> list[Found]:
        self.sizes.append(len(units))
        self.begun.set()
        assert self.let_go.wait(10)
        if self.broken:
            raise RuntimeError("broken")
        return ExactScan(self.rows).search(units, n)


@pytest.fixture
def held(rows: Floats, monkeypatch: pytest.MonkeyPatch) -> HeldScan:
    monkeypatch.setattr(scan_queue, "_MAX_STEPS_IN_LOOP", 0)
    return HeldScan(rows)


async def begin(queue: QueuedScan, held: HeldScan, queries: Floats) -> list[asyncio.Task[list[Found]]]:
    """The first query searched for, all others waiting behind it."""
    first = asyncio.create_task(queue.search(queries[:1], 5))
    assert await asyncio.to_thread(held.begun.wait, 10)
    others = [asyncio.create_task(queue.search(query[None], 5)) for query in queries[1:]]
    await asyncio.sleep(0)
    return [first, *others]


async def test_searches_that_wait_are_made_together_and_each_gets_its_own(held: HeldScan) -> None:
    queries = queries_near(held.rows, 9)
    searches = await begin(QueuedScan(held), held, queries)
    held.let_go.set()
    for search, expected in zip(searches, ExactScan(held.rows).search(queries, 64), strict=True):
        [(places, _)] = await search
        np.testing.assert_array_equal(places, expected[0])
    assert held.sizes == [1, 8]


async def test_a_search_that_is_given_up_leaves_the_others_alone(held: HeldScan) -> None:
    searches = await begin(QueuedScan(held), held, queries_near(held.rows, 4))
    searches[0].cancel()
    searches[2].cancel()
    held.let_go.set()
    assert len(await searches[1]) == len(await searches[3]) == 1
    assert held.sizes == [1, 2]


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
