"""The fitted collaborative model in memory, searched for any listener, and kept up to date with the store of models."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Protocol

import faiss
import numpy as np
import numpy.typing as npt
import structlog

from core.collaborative import Likes
from core.errors import ConfigurationError, SongsAIError
from core.fitted_collaborative import MODEL_KIND, FittedCollaborative
from core.ports.arrays import Floats, Ids
from core.ports.clock import Clock
from core.ports.collaborative import FusionWeights
from core.ports.index import Hits
from core.ports.model_store import ModelStore
from models.log_event import LogEvent
from services.index_watch import refresh_for_ever
from services.scan_queue import QueuedScan
from services.vector_scan import EXACT_BELOW, Places, build_products_scan

_TINY = 1e-30
_AT = 200
_N_SAMPLED = 64
_N_SAMPLED_LIKES = 10
_N_MEASURED = 20_000
# Of the kind of listener that fares worst, those of one like; candidates are judged by content as well.
# A lower aim is better than the exact scan that takes ten times as long.
_AIMS = (0.985, 0.97, 0.9, 0.8)
_LEAST_STRETCH = 1e-3
_CHUNK = 32_768
# Rows of such a multiple of dimensions faiss compares by whole registers, others number by number: 2.5 times as slow.
_REGISTER = 16
# A search so deep among the rows that are held would want ones that were left out as too short.
_HELD_PER_ASKED = 4

_log = structlog.get_logger()


class InMemoryCollaborativeSource:
    """A ``CollaborativeSource`` over a fitted model. Ties go to the smaller id, so that results repeat.

    Up to ``exact_below`` items all are scored; beyond, a scan of codes finds those that are, and building it takes a
    minute for a million.
    """

    def __init__(self, fitted: FittedCollaborative, *, exact_below: int = EXACT_BELOW) -> None:
        self._fitted = fitted
        self._vectors = fitted.model.item_vectors
        self._codes = _Codes(fitted) if len(self) >= exact_below else None

    @property
    def version(self) -> str:
        """The version under which the model is stored."""
        return self._fitted.version

    @property
    def weights(self) -> FusionWeights:
        """What ``fit`` found to be the best mixture on its validation split."""
        return self._fitted.weights

    @property
    def recall(self) -> float:
        """Recall@200 against scores of all items, for listeners made up of a few likes."""
        return self._codes.recall if self._codes else 1.0

    def __len__(self) -> int:
        return len(self._fitted.item_ids)

    def listener(self, likes: Mapping[int, float]) -> Floats | None:
        """The vector, float32 (dim,), of one who likes these items by these weights; None where it knows none."""
        ids = np.array(sorted(likes), dtype=np.int64)
        places, known = self._places(ids)
        weights = np.array([likes[item_id] for item_id in ids[known].tolist()], dtype=np.float32)
        places, weights = places[weights > 0], weights[weights > 0]
        if not len(places):
            return None
        starts = np.array([0, len(places)], dtype=np.int64)
        vector: Floats = self._fitted.model.listener_vectors(Likes(starts, places, weights))[0]
        return vector

    async def search(self, listener: Floats, n: int, *, excluded: Collection[int] = ()) -> Hits:
        """The ``n`` items of the highest inner product with ``listener``; scores are those products."""
        left_out, _ = self._places(np.fromiter(excluded, dtype=np.int64, count=len(excluded)))
        if self._codes is None or n <= 0 or n + len(left_out) > self._codes.n_most:
            scores: Floats = self._vectors @ listener
            scores[left_out] = -np.inf
            places = _best(scores, min(n, len(self) - len(np.unique(left_out))))
            return Hits(ids=self._fitted.item_ids[places], scores=scores[places])
        places = await self._codes.search(listener, n, len(left_out))
        places = np.sort(places[~np.isin(places, left_out)])
        scores = self._vectors[places] @ listener
        best = _best(scores, n)
        return Hits(ids=self._fitted.item_ids[places[best]], scores=scores[best])

    def scores(self, listener: Floats, item_ids: Ids) -> Floats:
        """The scores of ``item_ids``, float32 (n,), on the scale of ``search``; NaN where an item is unknown."""
        places, known = self._places(item_ids)
        scores = np.full(len(item_ids), np.nan, dtype=np.float32)
        scores[known] = self._vectors[places] @ listener
        return scores

    def _places(self, item_ids: Ids) -> tuple[Places, npt.NDArray[np.bool_]]:
        """Where those of ``item_ids`` that the model knows stand in it, and which these are."""
        known_ids = self._fitted.item_ids
        places = np.searchsorted(known_ids, item_ids)
        known = places < len(known_ids)
        known[known] = known_ids[places[known]] == item_ids[known]
        return places[known], known


class _Codes:
    """A scan of codes for inner products.

    FastScan looks codes up for inner products as they are: there is no need to turn these into cosines by a further
    dimension (Bachrach et al., "Speeding up the Xbox recommender system", 2014). Rows need only be no longer than 1.
    Short ones are hardly ever found, and so are not held: codes of a million items wait for memory, so that half of
    them take half the time. Of what is not among the ``n_most`` best too much may be missing.
    """

    def __init__(self, fitted: FittedCollaborative) -> None:
        listeners = _sample(fitted)
        self._space = _Space(fitted.model.item_vectors, listeners)
        rows, units = self._space.rows(fitted.model.item_vectors), self._space.units(listeners)
        scan, self._held = build_products_scan(rows, units, aims=_AIMS)
        self.n_most = len(rows) if len(self._held) == len(rows) else len(self._held) // _HELD_PER_ASKED
        self._queued, self.recall = QueuedScan(scan), scan.recall

    async def search(self, listener: Floats, n: int, n_besides: int) -> Places:
        """Places among which the ``n`` best are, with as many besides as are not wanted."""
        [(places, _)] = await self._queued.search(self._space.units(listener[None]), n, n_besides)
        return self._held[places]


class _Space:
    """Where codes keep most of what matters: the same inner products, up to a factor for each listener.

    A code has four bits for two neighbouring dimensions. First each dimension is stretched by how much listeners make
    of it, then those that vary most are put beside those that vary least, which leave them the bits: first of all
    beside the zeros that fill the registers up.
    """

    def __init__(self, vectors: Floats, listeners: Floats) -> None:
        used = np.sqrt(np.square(listeners).mean(axis=0))
        # Others than those of the sample may make more of it.
        self._stretch = np.maximum(used, max(_LEAST_STRETCH * float(used.max()), _TINY)).astype(np.float32)
        some = vectors[:: max(len(vectors) // _N_MEASURED, 1)] * self._stretch
        self._n_zeros = -vectors.shape[1] % _REGISTER
        falling = np.argsort(-np.pad(some.var(axis=0), (0, self._n_zeros)), kind="stable")
        half = len(falling) // 2
        self._order = np.empty_like(falling)
        self._order[0::2], self._order[1::2] = falling[:half], falling[half:][::-1]
        self._longest = _TINY
        for start in range(0, len(vectors), _CHUNK):
            part = vectors[start : start + _CHUNK] * self._stretch
            self._longest = max(self._longest, float(np.linalg.norm(part, axis=1).max()))

    def rows(self, vectors: Floats) -> npt.NDArray[np.float16]:
        """Items, (n, dim), of a length of 1 at the most."""
        rows = np.empty((len(vectors), len(self._order)), dtype=np.float16)
        for start in range(0, len(vectors), _CHUNK):
            part = vectors[start : start + _CHUNK] * (self._stretch / self._longest)
            rows[start : start + _CHUNK] = self._turned(part)
        return rows

    def units(self, listeners: Floats) -> Floats:
        """Listeners, (n, dim), of unit length."""
        turned = self._turned(listeners / self._stretch)
        lengths = np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), _TINY)
        units: Floats = (turned / lengths).astype(np.float32)
        return units

    def _turned(self, vectors: Floats) -> Floats:
        turned: Floats = np.pad(vectors, ((0, 0), (0, self._n_zeros)))[:, self._order]
        return turned


def _sample(fitted: FittedCollaborative) -> Floats:
    """Listeners who like one item, several that go together, and several that do not; as many of each kind."""
    model, n_items = fitted.model, len(fitted.item_ids)
    chance = np.random.default_rng(n_items)
    ones = chance.integers(n_items, size=(_N_SAMPLED, 1))
    of_ones = model.listener_vectors(Likes.of(ones.tolist()))
    _, near = faiss.knn(of_ones, model.item_vectors, _AT, metric=faiss.METRIC_INNER_PRODUCT)
    together = np.hstack([ones, chance.permuted(near, axis=1)[:, : _N_SAMPLED_LIKES - 1]])
    anything = chance.integers(n_items, size=(_N_SAMPLED, _N_SAMPLED_LIKES))
    others = model.listener_vectors(Likes.of([*together.tolist(), *anything.tolist()]))
    return np.concatenate([of_ones, others])


def _best(scores: Floats, n: int) -> Places:
    """Where the ``n`` highest scores stand, highest first; of equal ones the foremost."""
    n = min(n, len(scores))
    if n <= 0:
        return np.zeros(0, dtype=np.int64)
    lowest = np.partition(scores, len(scores) - n)[len(scores) - n]
    [reaching] = np.nonzero(scores >= lowest)
    return np.asarray(reaching[np.lexsort((reaching, -scores[reaching]))][:n], dtype=np.int64)


class CollaborativeObserver(Protocol):
    """Is told which model is in force."""

    def collaborative_loaded(self, *, version: str, n_items: int, recall: float) -> None:
        """Another model is in force from now on; ``recall`` is that of its search, at 200, on a sample."""


class RefreshingCollaborative:
    """A ``CollaborativeProvider`` that polls the store and swaps the model when another is in force; jobs keep theirs.

    A model that cannot be read is told of once, and the one before goes on serving: a list without it is still a list.
    """

    def __init__(self, store: ModelStore, *, refresh_s: float, clock: Clock, observer: CollaborativeObserver) -> None:
        self._store = store
        self._refresh_s = refresh_s
        self._clock = clock
        self._observer = observer
        self._source: InMemoryCollaborativeSource | None = None
        self._refused: str | None = None

    def current(self) -> InMemoryCollaborativeSource | None:
        """The newest model, or None while there is none."""
        return self._source

    async def load(self) -> None:
        """The first refresh: raises ``DependencyUnavailable`` alone, since without a model there is much to serve."""
        try:
            await self.refresh()
        except ConfigurationError as error:
            _tell_of_failure(error)

    async def refresh(self) -> None:
        """Put the model in force that the store says. Raises what the store raises, and then changes nothing."""
        version = await self._store.active_version(MODEL_KIND)
        if version is None:
            self._source = None
        elif version != self._refused and (self._source is None or self._source.version != version):
            try:
                await self._load(version)
            except ConfigurationError:
                self._refused = version
                raise

    async def _load(self, version: str) -> None:
        began_at_s = self._clock.monotonic_s()
        payload = await self._store.load(MODEL_KIND, version)
        if payload is None:
            raise ConfigurationError(f"the collaborative model of version {version!r} is gone: fit it again")
        # Off the event loop: a minute for a million items, while jobs run.
        source = await asyncio.to_thread(_source_of, payload, version)
        self._source = source
        self._observer.collaborative_loaded(version=version, n_items=len(source), recall=source.recall)
        _log.info(
            LogEvent.MODEL_LOADED,
            kind=MODEL_KIND,
            version=version,
            n_items=len(source),
            recall=round(source.recall, 4),
            seconds=round(self._clock.monotonic_s() - began_at_s, 3),
        )

    async def run(self) -> None:
        """Refresh every ``refresh_s`` seconds until cancelled; while the store is away the model stays as it is."""
        await refresh_for_ever(self.refresh, self._refresh_s, _tell_of_failure)


def _tell_of_failure(error: SongsAIError) -> None:
    _log.warning(LogEvent.MODEL_REFRESH_FAILED, kind=MODEL_KIND, error=str(error))


def _source_of(payload: bytes, version: str) -> InMemoryCollaborativeSource:
    return InMemoryCollaborativeSource(replace(FittedCollaborative.from_bytes(payload), version=version))
