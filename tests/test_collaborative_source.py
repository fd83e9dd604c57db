"""The collaborative model as a source of candidates, by brute force; and the swap of one model for the next."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from core.collaborative import Likes
from core.errors import ConfigurationError, DependencyUnavailable
from core.fitted_collaborative import MODEL_KIND, FittedCollaborative
from core.ports.arrays import Floats, Ids
from models.log_event import LogEvent
from services import vector_scan
from services.collaborative_source import InMemoryCollaborativeSource, RefreshingCollaborative, _Space
from tests.support.clustered import clustered_rows
from tests.support.fitted_models import WEIGHTS, fitted_of, going_together
from tests.support.hand_clock import HandClock
from tests.support.waiting import until

N_ITEMS = 40
IDS = [10 * n + 3 for n in range(N_ITEMS)]


def at_random(seed: int) -> FittedCollaborative:
    """Of few different numbers, so that scores often tie."""
    vectors, inputs = np.random.default_rng(seed).integers(-2, 3, (2, N_ITEMS, 3)).astype(np.float32)
    return fitted_of(vectors, inputs=inputs, item_ids=IDS)


def by_brute_force(fitted: FittedCollaborative, likes: Mapping[int, float]) -> dict[int, float]:
    """The score of every item by id."""
    known = {IDS.index(item_id): weight for item_id, weight in sorted(likes.items()) if item_id in IDS and weight > 0}
    items, weights = np.array(list(known), np.int64), np.array(list(known.values()), np.float32)
    [scores] = fitted.model.scores(Likes(np.array([0, len(items)]), items, weights))
    return dict(zip(IDS, scores.tolist(), strict=True))


# --- search ---


@settings(deadline=None)
@given(
    seed=st.integers(0, 50),
    likes=st.dictionaries(st.sampled_from([*IDS, 1, 2, 10**15]), st.sampled_from([0.5, 1.0, 2.0]), max_size=8),
    n=st.integers(-1, 60),
    excluded=st.frozensets(st.sampled_from([*IDS, 5, 10**15]), max_size=45),
)
async def test_a_search_finds_what_scoring_everything_finds(
    seed: int, likes: dict[int, float], n: int, excluded: frozenset[int]
) -> None:
    fitted = at_random(seed)
    source = InMemoryCollaborativeSource(fitted)
    listener = source.listener(likes)
    assert (listener is None) == (not likes.keys() & set(IDS))
    if listener is None:
        return
    scores = by_brute_force(fitted, likes)
    hits = await source.search(listener, n, excluded=excluded)
    found = hits.ids.tolist()
    assert len(set(found)) == len(found) == max(0, min(n, len(set(IDS) - excluded)))
    assert not excluded & set(found)
    assert hits.scores.tolist() == pytest.approx([scores[item_id] for item_id in found], abs=1e-4)
    best = sorted((score for item_id, score in scores.items() if item_id not in excluded), reverse=True)
    assert hits.scores.tolist() == pytest.approx(best[: len(found)], abs=1e-4)


async def test_of_equal_scores_the_smaller_id_comes_first() -> None:
    fitted = fitted_of(np.ones((5, 2), np.float32), item_ids=[2, 4, 6, 8, 10])
    fitted.model.item_vectors[:, -1] = 0
    source = InMemoryCollaborativeSource(fitted)
    listener = source.listener({6: 1.0})
    assert listener is not None
    assert (await source.search(listener, 3, excluded={4})).ids.tolist() == [2, 6, 8]


def test_the_order_of_the_likes_changes_nothing() -> None:
    source = InMemoryCollaborativeSource(at_random(1))
    one, other = source.listener({3: 1.0, 13: 2.0, 23: 0.5}), source.listener({23: 0.5, 3: 1.0, 13: 2.0})
    assert one is not None
    assert other is not None
    assert one.tobytes() == other.tobytes()


def test_a_like_that_counts_for_nothing_is_no_like() -> None:
    assert InMemoryCollaborativeSource(at_random(1)).listener({3: 0.0}) is None


def test_unknown_items_have_no_score() -> None:
    source = InMemoryCollaborativeSource(at_random(1))
    listener = source.listener({3: 1.0})
    assert listener is not None
    asked: Ids = np.array([2**62, 13, 4, 3, 1], np.int64)
    scores = source.scores(listener, asked)
    expected = by_brute_force(at_random(1), {3: 1.0})
    assert np.isnan(scores).tolist() == [True, False, True, False, True]
    assert scores[[1, 3]].tolist() == pytest.approx([expected[13], expected[3]], abs=1e-5)
    assert source.scores(listener, asked[:0]).tolist() == []


def test_weights_and_version_are_those_of_the_fit() -> None:
    fitted = at_random(2)
    source = InMemoryCollaborativeSource(fitted)
    assert (source.version, source.weights, len(source), source.recall) == (fitted.version, WEIGHTS, N_ITEMS, 1.0)


# --- search through codes ---


def many(n_items: int = 4000, dim: int = 16) -> FittedCollaborative:
    """Items of very different lengths, as popular and unpopular ones are; of an odd dimension with the popularity."""
    lengths = np.random.default_rng(0).lognormal(sigma=0.7, size=n_items)
    vectors: Floats = (clustered_rows(n_items, dim) * lengths[:, None]).astype(np.float32)
    return fitted_of(vectors, inputs=clustered_rows(n_items, dim, seed=1))


async def test_codes_find_nearly_all_of_the_best_and_score_them_exactly() -> None:
    fitted = many()
    exact, coded = InMemoryCollaborativeSource(fitted), InMemoryCollaborativeSource(fitted, exact_below=0)
    assert exact.recall == 1.0
    assert 0.97 <= coded.recall <= 1.0
    recalls = []
    for liked in range(1, 400, 20):
        listener = exact.listener({liked: 1.0, liked + 7: 1.0})
        assert listener is not None
        excluded = set(range(1, 4000, 9))
        true, found = await asyncio.gather(
            exact.search(listener, 200, excluded=excluded), coded.search(listener, 200, excluded=excluded)
        )
        assert len(set(found.ids.tolist())) == 200
        assert not excluded & set(found.ids.tolist())
        assert np.all(np.diff(found.scores) <= 0)
        np.testing.assert_allclose(found.scores, exact.scores(listener, found.ids), atol=1e-5)
        recalls.append(np.isin(true.ids, found.ids).mean())
    assert np.mean(recalls) >= 0.95


async def test_codes_find_nothing_where_nothing_is_asked_or_left() -> None:
    coded = InMemoryCollaborativeSource(many(500), exact_below=0)
    listener = coded.listener({5: 1.0})
    assert listener is not None
    assert (await coded.search(listener, 0)).ids.tolist() == []
    assert (await coded.search(listener, 9, excluded=range(1, 501))).ids.tolist() == []
    assert sorted((await coded.search(listener, 900)).ids.tolist()) == list(range(1, 501))


async def test_codes_hold_no_items_that_are_too_short_unless_a_search_goes_deep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vector_scan, "_LEAST_HELD", 1000)
    fitted = many()
    exact, coded = InMemoryCollaborativeSource(fitted), InMemoryCollaborativeSource(fitted, exact_below=0)
    assert coded._codes is not None
    n_most = coded._codes.n_most
    assert 250 <= n_most < 1000
    assert coded.recall >= 0.97
    recalls = []
    for liked in range(3, 400, 20):
        listener = exact.listener({liked: 1.0, liked + 7: 1.0})
        assert listener is not None
        true, found = await asyncio.gather(
            *(source.search(listener, 200, excluded={liked}) for source in (exact, coded))
        )
        recalls.append(np.isin(true.ids, found.ids).mean())
        # All of them, one by one, and not only those that codes hold.
        deep, all_found = await asyncio.gather(*(source.search(listener, n_most + 1) for source in (exact, coded)))
        assert all_found.ids.tolist() == deep.ids.tolist()
        assert len((await coded.search(listener, n_most - 50, excluded=range(1, 100))).ids) == n_most - 50
    assert np.mean(recalls) >= 0.95


@pytest.mark.parametrize("dim", [1, 14, 15, 16])
def test_codes_see_the_same_products_in_dimensions_that_fill_registers(dim: int) -> None:
    generator = np.random.default_rng(dim)
    vectors, listeners = generator.normal(size=(500, dim)), generator.normal(size=(9, dim))
    space = _Space(vectors.astype(np.float32), listeners.astype(np.float32))
    rows, units = space.rows(vectors.astype(np.float32)), space.units(listeners.astype(np.float32))
    assert rows.shape == (500, 16)
    assert np.linalg.norm(rows.astype(np.float32), axis=1).max() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, rtol=1e-5)
    products, seen = listeners @ vectors.T, units @ rows.astype(np.float32).T
    scales = np.linalg.norm(products, axis=1) / np.linalg.norm(seen, axis=1)
    np.testing.assert_allclose(seen * scales[:, None], products, atol=0.02 * np.abs(products).max())


# --- the model in force ---


@dataclass
class ScriptedModels:
    """A ``ModelStore`` of payloads by version; it fails while ``down``."""

    payloads: dict[str, bytes] = field(default_factory=dict)
    active: str | None = None
    down: bool = False
    n_asked: int = 0
    n_loads: int = 0

    async def active_version(self, kind: str) -> str | None:
        assert kind == MODEL_KIND
        self.n_asked += 1
        if self.down:
            raise DependencyUnavailable("mysql", "gone away")
        return self.active

    async def load(self, kind: str, version: str) -> bytes | None:
        self.n_loads += 1
        if self.down:
            raise DependencyUnavailable("mysql", "gone away")
        return self.payloads.get(version)

    async def save(self, kind: str, version: str, payload: bytes, metrics: Mapping[str, float]) -> None:
        self.payloads[version] = payload

    async def activate(self, kind: str, version: str) -> None:
        self.active = version

    def put(self, version: str, fitted: FittedCollaborative) -> None:
        self.payloads[version], self.active = fitted.to_bytes(), version


@dataclass
class Noted:
    """A ``CollaborativeObserver`` that remembers."""

    loads: list[tuple[str, int, float]] = field(default_factory=list)

    def collaborative_loaded(self, *, version: str, n_items: int, recall: float) -> None:
        self.loads.append((version, n_items, recall))


ONE, OTHER = going_together({1: 0, 2: 0, 3: 1}), going_together({1: 0, 2: 1, 3: 0, 4: 1})


class Serving:
    def __init__(self, refresh_s: float = 0.001) -> None:
        self.store, self.noted = ScriptedModels(), Noted()
        self.models = RefreshingCollaborative(self.store, refresh_s=refresh_s, clock=HandClock(), observer=self.noted)

    @property
    def version(self) -> str | None:
        source = self.models.current()
        return source.version if source else None


async def test_a_site_that_never_fitted_has_no_model_and_no_error() -> None:
    serving = Serving()
    await serving.models.load()
    await serving.models.refresh()
    assert serving.version is None
    assert serving.noted.loads == []


async def test_the_model_in_force_is_loaded_under_the_name_that_it_is_stored_by() -> None:
    serving = Serving()
    serving.store.put("v1", ONE)
    await serving.models.load()
    assert serving.version == "v1"
    assert serving.noted.loads == [("v1", 3, 1.0)]


async def test_a_model_that_is_still_in_force_is_not_loaded_again() -> None:
    serving = Serving()
    serving.store.put("v1", ONE)
    await serving.models.load()
    held = serving.models.current()
    await serving.models.refresh()
    assert serving.models.current() is held
    assert (serving.store.n_asked, serving.store.n_loads) == (2, 1)


async def test_another_model_is_swapped_in_and_whoever_holds_the_old_one_keeps_it_whole() -> None:
    serving = Serving()
    serving.store.put("v1", ONE)
    await serving.models.load()
    held = serving.models.current()
    assert held is not None
    serving.store.put("v2", OTHER)
    await serving.models.refresh()
    assert serving.version == "v2"
    listener = held.listener({1: 1.0})
    assert listener is not None
    assert (await held.search(listener, 1, excluded={1})).ids.tolist() == [2]
    assert held.version == "v1"
    # And back again.
    serving.store.active = "v1"
    await serving.models.refresh()
    assert [version for version, *_ in serving.noted.loads] == ["v1", "v2", "v1"]


async def test_a_store_that_is_away_is_waited_for_at_the_start() -> None:
    serving = Serving()
    serving.store.down = True
    with pytest.raises(DependencyUnavailable):
        await serving.models.load()


async def test_while_the_store_is_away_the_model_stays_and_then_the_next_one_comes() -> None:
    serving = Serving()
    serving.store.put("v1", ONE)
    await serving.models.load()
    serving.store.put("v2", OTHER)
    serving.store.down = True
    with capture_logs() as logs:
        running = asyncio.create_task(serving.models.run())
        await until(lambda: _true(len(logs) > 1))
        assert serving.version == "v1"
        serving.store.down = False
        await until(lambda: _true(serving.version == "v2"))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert {"event": LogEvent.MODEL_REFRESH_FAILED, "kind": MODEL_KIND, "log_level": "warning"}.items() <= logs[
        0
    ].items()
    assert logs[-1]["event"] == LogEvent.MODEL_LOADED


@pytest.mark.parametrize("payload", [b"no model", None])
async def test_a_model_that_cannot_be_read_is_told_of_once_and_the_old_one_serves_on(payload: bytes | None) -> None:
    serving = Serving()
    serving.store.put("v1", ONE)
    await serving.models.load()
    serving.store.active = "v2"
    if payload is not None:
        serving.store.payloads["v2"] = payload
    with pytest.raises(ConfigurationError, match="fit it again"):
        await serving.models.refresh()
    await serving.models.refresh()
    assert (serving.version, serving.store.n_loads) == ("v1", 2)
    serving.store.put("v3", OTHER)
    await serving.models.refresh()
    assert serving.version == "v3"


async def test_a_model_that_cannot_be_read_does_not_stop_the_start() -> None:
    serving = Serving()
    serving.store.payloads["v1"], serving.store.active = b"no model", "v1"
    with capture_logs() as logs:
        await serving.models.load()
    assert serving.version is None
    assert [entry["event"] for entry in logs] == [LogEvent.MODEL_REFRESH_FAILED]


async def test_a_model_that_was_taken_out_of_force_is_served_no_more() -> None:
    serving = Serving()
    serving.store.put("v1", ONE)
    await serving.models.load()
    serving.store.active = None
    await serving.models.refresh()
    assert serving.version is None


async def test_two_stored_names_of_the_same_content_are_two_versions() -> None:
    serving = Serving()
    serving.store.put("v1", ONE)
    await serving.models.load()
    serving.store.put("v2", replace(ONE, version="v2"))
    await serving.models.refresh()
    assert serving.version == "v2"


async def _true(condition: bool) -> bool:
    return condition
