"""What data look like, in figures small enough to be kept: to be checked, and compared with those of another day."""

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

_N_BINS = 10
_N_NAMES = 30
_OTHERS = ""
# A share of nothing would make the index infinite; so small a share is as good as none.
_LEAST_SHARE = 1e-4
# Floats of 32 bits, as features are kept, lie a little beside the bounds that they reach.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Spread:
    """How numbers are distributed: inner ``edges`` (deciles, at most 9, rising) and the ``shares`` between them.

    ``low`` and ``high`` are the least and the greatest; a spread of nothing has no shares.
    """

    n: int
    low: float
    high: float
    edges: tuple[float, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, values: Doubles, edges: Sequence[float] | None = None) -> "Spread":
        """Of finite numbers, in the bins of ``edges`` or in their own."""
        if not len(values):
            return cls(0, 0.0, 0.0, (), ())
        if edges is None:
            # Where a value is frequent several deciles are one.
            inner = np.quantile(values, np.arange(1, _N_BINS) / _N_BINS, method="lower")
            edges = np.unique(inner).tolist()
        # A value of an edge belongs below it.
        places = np.searchsorted(np.asarray(edges), values, side="left")
        counts = np.bincount(places, minlength=len(edges) + 1)
        shares = tuple((counts / len(values)).tolist())
        return cls(len(values), float(values.min()), float(values.max()), tuple(edges), shares)


@dataclass(frozen=True, slots=True)
class FeatureFigures:
    """One number of items: how many have it, its spread, and the share of those that lie beyond its range."""

    n_missing: int
    spread: Spread
    beyond: float = 0.0


@dataclass(frozen=True, slots=True)
class DataFigures:
    """Figures of a catalogue or of a file, and of what members do; what was not looked at is empty or None.

    ``n_rows`` are rows of a file, ``bad_rows`` those of them that were left out by reason, ``n_repeated`` those that
    say once more what another says, and ``n_conflicting`` those that say something else of the same id. ``genres`` are
    shares of items by name, the rarest together under an empty one. ``n_lookalikes`` items have title and creator of
    another. ``n_orphaned`` of ``n_signs`` rows of likes, lists and events are of items that there are not. ``drift``
    holds an index of stability by subject, against the figures that these were compared with.
    """

    n_items: int = 0
    features: Mapping[str, FeatureFigures] = field(default_factory=dict)
    genres: Mapping[str, float] = field(default_factory=dict)
    n_lookalikes: int = 0
    n_rows: int = 0
    bad_rows: Mapping[str, int] = field(default_factory=dict)
    n_repeated: int = 0
    n_conflicting: int = 0
    n_several: int = 0
    weights: Spread | None = None
    list_lengths: Spread | None = None
    n_signs: int = 0
    n_orphaned: int = 0
    drift: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """For the store of models, and for programs."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "DataFigures | None":
        """What ``to_json`` wrote; None where it is of a program that counted other things."""
        try:
            return cls(**_known(json.loads(text)))
        except (TypeError, KeyError, ValueError, AttributeError):
            return None


def _known(document: Mapping[str, Any]) -> Mapping[str, Any]:
    features = {
        name: FeatureFigures(each["n_missing"], _spread(each["spread"]), each["beyond"])
        for name, each in document["features"].items()
    }
    spreads = {name: document[name] and _spread(document[name]) for name in ("weights", "list_lengths")}
    return {**document, "features": features, **spreads}


def _spread(document: Mapping[str, Any]) -> Spread:
    return Spread(**{**document, "edges": tuple(document["edges"]), "shares": tuple(document["shares"])})


def with_interactions(
    figures: DataFigures, owners: npt.NDArray[np.int64], weights: Doubles, before: DataFigures | None = None
) -> DataFigures:
    """``figures`` with those of pairs: whose each is, and how strong; both (n_pairs,)."""
    lengths = np.unique(owners, return_counts=True)[1].astype(np.float64)
    drift = dict(figures.drift)
    if before and before.weights and before.list_lengths:
        drift["weights of interactions"] = drift_of_numbers(weights, before.weights)
        drift["interactions of a member"] = drift_of_numbers(lengths, before.list_lengths)
    return replace(figures, weights=Spread.of(weights), list_lengths=Spread.of(lengths), drift=drift)


class ItemCount:
    """Takes items in batches, and makes figures of them; memory holds four bytes for each number."""

    def __init__(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        self._ranges = ranges
        self._numbers: defaultdict[str, array[float]] = defaultdict(lambda: array("f"))
        self._genres: Counter[str] = Counter()
        self._titles: Counter[int] = Counter()
        self.n_items = 0

    def add(self, features: Mapping[str, float], genres: Iterable[str], name: str) -> None:
        """One item; ``name`` is by what two of them look alike."""
        self.n_items += 1
        for feature, number in features.items():
            self._numbers[feature].append(number)
        self._genres.update(genre.casefold() for genre in genres)
        self._titles[hash(name.casefold())] += 1

    def figures(self, before: DataFigures | None = None) -> DataFigures:
        """Of all items so far, compared with ``before``."""
        genres = _shares(self._genres)
        return DataFigures(
            n_items=self.n_items,
            features={name: self._feature(name) for name in sorted(self._numbers)},
            genres=genres,
            n_lookalikes=self.n_items - len(self._titles),
            drift=dict(self._drift(before, genres)) if before else {},
        )

    def _drift(self, before: DataFigures, genres: Mapping[str, float]) -> Iterator[tuple[str, float]]:
        for name in sorted(self._numbers.keys() & before.features.keys()):
            yield name, drift_of_numbers(self._known(name), before.features[name].spread)
        if genres and before.genres:
            yield "genres", drift_of_shares(genres, before.genres)

    def _known(self, name: str) -> Doubles:
        values = np.frombuffer(self._numbers[name], np.float32).astype(np.float64)
        return values[np.isfinite(values)]

    def _feature(self, name: str) -> FeatureFigures:
        values, known = self._numbers[name], self._known(name)
        low, high = self._ranges.get(name, (-np.inf, np.inf))
        slack = _ROUNDING * max((abs(bound) for bound in (low, high) if np.isfinite(bound)), default=0.0)
        beyond = (known < low - slack) | (known > high + slack)
        # What is no number lies beyond any range.
        n_beyond = int(beyond.sum()) + len(values) - len(known)
        return FeatureFigures(self.n_items - len(values), Spread.of(known), n_beyond / max(len(values), 1))


def _shares(counts: Counter[str]) -> Mapping[str, float]:
    total = max(counts.total(), 1)
    common = dict(counts.most_common(_N_NAMES))
    others = counts.total() - sum(common.values())
    shares = {name: n / total for name, n in common.items()}
    return {**shares, _OTHERS: others / total} if others else shares


def drift_of_numbers(now: Doubles, before: Spread) -> float:
    """The population stability index of numbers, in the bins of ``before``; 0 where one of them is of nothing."""
    if not len(now) or not before.n:
        return 0.0
    return _index(Spread.of(now, before.edges).shares, before.shares)


def drift_of_shares(now: Mapping[str, float], before: Mapping[str, float]) -> float:
    """The same of shares by name; a name that was not among ``before`` counts with the others."""
    if not now or not before:
        return 0.0
    names = [name for name in before if name != _OTHERS]
    known = [now.get(name, 0.0) for name in names]
    return _index([*known, 1 - sum(known)], [*(before[name] for name in names), before.get(_OTHERS, 0.0)])


def _index(now: Sequence[float], before: Sequence[float]) -> float:
    """Sum of ``(now - before) * ln(now / before)`` (Siddiqi, "Credit Risk Scorecards", 2006)."""
    ours, theirs = (np.maximum(np.asarray(shares, np.float64), _LEAST_SHARE) for shares in (now, before))
    return float(((ours - theirs) * np.log(ours / theirs)).sum())
