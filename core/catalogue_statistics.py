"""What an embedder must know of a whole catalogue: how its numbers are spread, and how many items have a token.

Fitted in one pass over the items, in any batches, in memory that does not grow with their number beyond 12 bytes a
distinct token; the same items make the same bytes. Without a catalogue ``CatalogueStatistics.plain()`` stands in.
"""

import io
import json
import math
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

from config.catalogue_profile import FeatureScale
from core.errors import ConfigurationError
from core.item_tokens import Tokens, letter_pairs_of, tokens_of
from core.text_features import Hashes, hash_of, hashes_of, mixed
from models.catalogue import Item

STATISTICS_KIND = "embedder"

MIN_ITEMS = 1000
"""Fewer tell nothing of a catalogue: they are embedded with plain statistics."""

BOUND = 2.5
"""Normal scores beyond this are no further away."""

HARMONICS: Final = np.array([1.0, 3.0, 5.0])

Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.uint32]
Halves = npt.NDArray[np.float16]

_FORMAT = 1
_DIGEST_BYTES = 8
_MAX_TOKENS, _MAX_HEAVIEST, _MAX_SAMPLED, _MAX_KNOTS = 200_000, 64, 200_000, 1024
_N_ANCHORS = 2000
_MERGE_FROM = 1_000_000
# Sums of multiples of this are exact, whatever the order.
_UNIT = 2.0**-20
# Beyond this a number is no measurement; computing with it could overflow.
_HUGE = 1e12


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """How one number is spread: ``knots`` float64 (k,), rising values, and their normal ``scores`` float64 (k,).

    ``means`` float64 (6,): those of the cosines and sines of ``waves``; ``share``: of items that have it; ``plane``:
    its number among the features; ``weight``: what it counts.
    """

    knots: Doubles
    scores: Doubles
    means: Doubles
    share: float = 1.0
    weight: float = 1.0
    plane: int = 0

    def scores_of(self, values: Doubles) -> Doubles:
        """The normal score of each value, within ``BOUND``."""
        found = np.interp(np.clip(values, -_HUGE, _HUGE), self.knots, self.scores)
        return np.asarray(np.clip(found, -BOUND, BOUND), np.float64)


def waves(scores: Doubles) -> Doubles:
    """Cosines and sines of 1, 3 and 5 times the angle of each score on a half circle, shape (len(scores), 6)."""
    angles = (scores / BOUND + 1) * (math.pi / 2)
    turned = angles[:, None] * HARMONICS
    return np.stack([np.cos(turned), np.sin(turned)], axis=2).reshape(len(scores), 2 * len(HARMONICS))


@dataclass(frozen=True, slots=True, eq=False)
class Heaviest:
    """The tokens that most of all text and tags is made of, the heaviest first.

    ``hashes`` uint64 (k,); ``is_tag`` bool (k,); ``means`` and ``squares`` float64 (k,): of what each item
    has of the token.
    """

    hashes: Hashes
    is_tag: npt.NDArray[np.bool_]
    means: Doubles
    squares: Doubles


@dataclass(frozen=True, slots=True, eq=False)
class CatalogueStatistics:
    """``hashes`` uint64 (n,), rising, of tokens and pairs of letters; ``counts`` uint32 (n,): how many items have each.

    ``tag_square``: the mean square of an item's tags. ``salt`` chooses among codes that are as good. A token that is
    not among ``hashes`` is taken to be in ``count_of_unknown`` items. ``anchors`` float16 (n, dim): items of a sample,
    embedded by all the rest of these statistics.
    """

    n_items: int
    features: Mapping[str, Feature]
    hashes: Hashes
    counts: Counts
    heaviest: Heaviest
    tag_square: float = 0.0
    salt: int = 0
    count_of_unknown: int = 0
    is_fitted: bool = True
    anchors: Halves = field(default_factory=lambda: np.empty((0, 0), np.float16))

    @classmethod
    def plain(
        cls, scales: Mapping[str, FeatureScale] | None = None, frequent_words: Collection[str] = ()
    ) -> "CatalogueStatistics":
        """What can be said of a catalogue unseen: how numbers are commonly spread, and words that say little."""
        return _plain(scales or {}, frequent_words)

    @property
    def version(self) -> str:
        """A digest of the content, 16 hexadecimal digits."""
        return version_of(self.to_bytes())

    def feature(self, name: str) -> Feature | None:
        """What is known of the feature of that name, if anything is."""
        found = self.features.get(name)
        return found if found or self.is_fitted else _feature_of_any_size(name)

    def rarity(self, hashes: Hashes) -> Doubles:
        """From 0 for a token of text that all items have to nearly 1; 0 too where only one has it, float64 (n,)."""
        places = np.minimum(np.searchsorted(self.hashes, hashes), max(len(self.hashes) - 1, 0))
        counts = np.full(len(hashes), float(self.count_of_unknown))
        if len(self.hashes):
            known = self.hashes[places] == hashes
            counts[known] = self.counts[places[known]]
        return _rarity(counts, self.n_items)

    def is_outgrown(self, n_items: int) -> bool:
        """Whether a catalogue of ``n_items`` is another one than that which was looked at."""
        return n_items > 2 * self.n_items or self.n_items > 2 * n_items

    def to_bytes(self) -> bytes:
        """As ``.npz`` without pickle; the same content makes the same bytes."""
        file, names = io.BytesIO(), sorted(self.features)
        features = [self.features[name] for name in names]
        ends = np.cumsum([len(each.knots) for each in features], dtype=np.int64)
        np.savez(
            file,
            allow_pickle=False,
            header=np.array([_FORMAT, self.n_items, self.salt, self.count_of_unknown, self.is_fitted], np.int64),
            tag_square=np.array([self.tag_square]),
            names=np.frombuffer(json.dumps(names).encode(), np.uint8),
            ends=ends,
            knots=np.concatenate([np.empty(0), *(each.knots for each in features)]),
            scores=np.concatenate([np.empty(0), *(each.scores for each in features)]),
            means=np.array([each.means for each in features]).reshape(len(features), 2 * len(HARMONICS)),
            numbers=np.array([[each.share, each.weight, each.plane] for each in features]).reshape(-1, 3),
            hashes=self.hashes,
            counts=self.counts,
            heaviest=self.heaviest.hashes,
            heaviest_is_tag=self.heaviest.is_tag,
            heaviest_numbers=np.array([self.heaviest.means, self.heaviest.squares]),
            anchors=self.anchors,
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, payload: bytes) -> "CatalogueStatistics":
        """What ``to_bytes`` wrote; raises ``ConfigurationError`` where it is something else."""
        try:
            with np.load(io.BytesIO(payload), allow_pickle=False) as file:
                return _read(file)
        # TypeError: numpy reads a single array as well, which is no file of several
        except (ValueError, KeyError, IndexError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigurationError(
                f"the statistics of the catalogue cannot be read ({error}); run `python main.py embed --refit`"
            ) from error


def version_of(payload: bytes) -> str:
    """What bytes of ``to_bytes`` are stored under: their digest, 16 hexadecimal digits."""
    return blake2b(payload, digest_size=_DIGEST_BYTES).hexdigest()


def _read(file: Mapping[str, npt.NDArray[np.generic]]) -> CatalogueStatistics:
    format_, n_items, salt, count_of_unknown, is_fitted = np.asarray(file["header"], np.int64).tolist()
    if format_ != _FORMAT:
        raise ValueError(f"format {format_}")
    hashes, counts = np.asarray(file["hashes"], np.uint64), np.asarray(file["counts"], np.uint32)
    means, squares = np.asarray(file["heaviest_numbers"], np.float64)
    heaviest = Heaviest(
        np.asarray(file["heaviest"], np.uint64), np.asarray(file["heaviest_is_tag"], np.bool_), means, squares
    )
    of_heaviest = {len(heaviest.hashes), len(heaviest.is_tag), len(means)}
    if n_items < 0 or len(hashes) != len(counts) or len(of_heaviest) != 1 or np.any(hashes[1:] <= hashes[:-1]):
        raise ValueError("parts that do not fit together")
    return CatalogueStatistics(
        n_items,
        dict(_read_features(file)),
        hashes,
        counts,
        heaviest,
        float(np.asarray(file["tag_square"], np.float64)[0]),
        salt,
        count_of_unknown,
        bool(is_fitted),
        _rows(file["anchors"]),
    )


def _rows(anchors: npt.NDArray[np.generic]) -> Halves:
    if anchors.ndim != 2:  # noqa: PLR2004 - rows and columns
        raise ValueError("anchors that are no rows")
    return np.asarray(anchors, np.float16)


def _read_features(file: Mapping[str, npt.NDArray[np.generic]]) -> Iterator[tuple[str, Feature]]:
    names = json.loads(np.asarray(file["names"], np.uint8).tobytes())
    ends = np.asarray(file["ends"], np.int64).tolist()
    knots, scores = (np.asarray(file[name], np.float64) for name in ("knots", "scores"))
    means, numbers = (np.asarray(file[name], np.float64) for name in ("means", "numbers"))
    if not len(names) == len(ends) == len(means) == len(numbers) or len(knots) != len(scores):
        raise ValueError("features that do not fit together")
    for row, (name, start, end) in enumerate(zip(names, [0, *ends], ends, strict=False)):
        share, weight, plane = numbers[row].tolist()
        if not 0 <= start < end <= len(knots):
            raise ValueError("a feature without values")
        yield name, Feature(knots[start:end], scores[start:end], means[row], share, weight, int(plane))


# --- fitting ---


def fit_statistics(
    items: Sequence[Item], text_columns: Collection[str] = (), feature_weights: Mapping[str, float] | None = None
) -> CatalogueStatistics:
    """The statistics of ``items``."""
    counting = CatalogueCount(text_columns, feature_weights or {})
    counting.add(items)
    return counting.statistics()


class CatalogueCount:
    """Counts a catalogue, batch by batch."""

    def __init__(self, text_columns: Collection[str] = (), feature_weights: Mapping[str, float] | None = None) -> None:
        """``feature_weights``: what a feature counts, by name, where that is not 1."""
        self._text_columns, self._feature_weights = tuple(text_columns), dict(feature_weights or {})
        self._tokens, self._pairs = _TokenCounts(), _TokenCounts()
        self._samples: dict[str, _Sample] = {}
        self._items: dict[int, Item] = {}
        self._n_items = 0

    def add(self, items: Sequence[Item]) -> None:
        """Count ``items``, none of which was counted before."""
        self._n_items += len(items)
        self._tokens.add(tokens_of(items, self._text_columns))
        self._pairs.add(letter_pairs_of(items, self._text_columns))
        ids = mixed(np.array([item.item_id for item in items], np.int64).astype(np.uint64))
        self._items.update(zip(ids.tolist(), items, strict=True))
        if len(self._items) > 2 * _N_ANCHORS:
            self._items = dict(zip(self._kept_keys(), self.sample(), strict=True))
        for name in {name for item in items for name in item.features}:
            values = np.array([item.features.get(name, math.nan) for item in items], np.float64)
            known = np.isfinite(values)
            if np.any(known):
                self._samples.setdefault(name, _Sample()).add(values[known], ids[known])

    def sample(self) -> list[Item]:
        """Items of all that was counted: those whose scrambled ids are the smallest."""
        return [self._items[key] for key in self._kept_keys()]

    def _kept_keys(self) -> list[int]:
        return sorted(self._items)[:_N_ANCHORS]

    def statistics(self) -> CatalogueStatistics:
        """Of all that was counted, without anchors."""
        names = sorted(self._samples)
        features = {name: self._feature(name, plane) for plane, name in enumerate(names)}
        hashes, counts, is_tag, sums, squares = self._tokens.merged()
        rarity = np.where(is_tag, 1.0, _rarity(counts.astype(np.float64), self._n_items))
        return CatalogueStatistics(
            self._n_items,
            features,
            *_frequent((hashes[~is_tag], counts[~is_tag]), self._pairs.merged()[:2]),
            self._heaviest(hashes, is_tag, sums * rarity, squares * rarity**2),
            float(squares[is_tag].sum()) / max(self._n_items, 1),
        )

    def _feature(self, name: str, plane: int) -> Feature:
        sample = self._samples[name]
        values = np.sort(sample.values())
        knots, scores = _normal_scores(values)
        of_values = Feature(knots, scores, np.empty(0)).scores_of(values)
        means = waves(of_values).mean(axis=0)
        return Feature(knots, scores, means, sample.n / self._n_items, self._feature_weights.get(name, 1.0), plane)

    def _heaviest(self, hashes: Hashes, is_tag: npt.NDArray[np.bool_], sums: Doubles, squares: Doubles) -> Heaviest:
        order = np.lexsort((hashes, -squares))[:_MAX_HEAVIEST]
        order = order[squares[order] > 0]
        return Heaviest(hashes[order], is_tag[order], sums[order] / self._n_items, squares[order] / self._n_items)


class _TokenCounts:
    """Of each token: in how many items it is, whether it is a tag, and sums of its weights and of their squares."""

    def __init__(self) -> None:
        self._hashes: list[Hashes] = [np.empty(0, np.uint64)]
        self._numbers: list[npt.NDArray[np.int64]] = [np.empty((4, 0), np.int64)]
        self._n_unmerged = 0

    def add(self, tokens: Tokens) -> None:
        weights = tokens.weights
        ones, tags = np.ones(len(weights), np.int64), tokens.is_tag.astype(np.int64)
        sums, squares = (np.rint(each / _UNIT).astype(np.int64) for each in (weights, weights**2))
        self._hashes.append(tokens.hashes)
        self._numbers.append(np.stack([ones, tags, sums, squares]))
        self._n_unmerged += len(weights)
        if self._n_unmerged > max(2 * len(self._hashes[0]), _MERGE_FROM):
            self._merge()

    def _merge(self) -> None:
        hashes, numbers = np.concatenate(self._hashes), np.concatenate(self._numbers, axis=1)
        order = np.argsort(hashes, kind="stable")
        hashes, numbers = hashes[order], numbers[:, order]
        starts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))[: len(hashes)]
        self._hashes = [hashes[starts]]
        self._numbers = [np.add.reduceat(numbers, starts, axis=1) if len(hashes) else numbers]
        self._n_unmerged = 0

    def merged(self) -> tuple[Hashes, npt.NDArray[np.int64], npt.NDArray[np.bool_], Doubles, Doubles]:
        """Hashes, counts, whether each is a tag, sums of weights, sums of their squares."""
        self._merge()
        counts, tags, sums, squares = self._numbers[0]
        return self._hashes[0], counts, tags > 0, sums * _UNIT, squares * _UNIT


class _Sample:
    """Values of the items whose scrambled ids are the smallest: the same ones, in whatever batches they come."""

    def __init__(self) -> None:
        self.n = 0
        self._values, self._keys = np.empty(0), np.empty(0, np.uint64)

    def add(self, values: Doubles, keys: Hashes) -> None:
        self.n += len(values)
        self._values, self._keys = np.concatenate([self._values, values]), np.concatenate([self._keys, keys])
        if len(self._keys) > 2 * _MAX_SAMPLED:
            self._values, self._keys = self._smallest()

    def _smallest(self) -> tuple[Doubles, Hashes]:
        order = np.argsort(self._keys, kind="stable")[:_MAX_SAMPLED]
        return self._values[order], self._keys[order]

    def values(self) -> Doubles:
        return self._smallest()[0]


def _rarity(counts: Doubles, n_items: int) -> Doubles:
    if n_items <= 1:
        return np.zeros(len(counts))
    found = np.log(n_items / np.clip(counts, 1, n_items)) / math.log(n_items)
    return np.where(counts > 1, found, 0.0)


def _frequent(*counted: tuple[Hashes, npt.NDArray[np.int64]]) -> tuple[Hashes, Counts]:
    """Of each kind those that several items have; where they are many, those that most have. All of them, rising."""
    kept_hashes, kept_counts = [], []
    for hashes, counts in counted:
        several = np.flatnonzero(counts > 1)
        chosen = several[np.lexsort((hashes[several], -counts[several]))[:_MAX_TOKENS]]
        kept_hashes.append(hashes[chosen])
        kept_counts.append(counts[chosen].astype(np.uint32))
    all_hashes, first = np.unique(np.concatenate(kept_hashes), return_index=True)
    return all_hashes, np.concatenate(kept_counts)[first]


def _normal_scores(values: Doubles) -> tuple[Doubles, Doubles]:
    """Distinct ones of sorted ``values`` and, by rank, their quantiles of a standard normal."""
    distinct, counts = np.unique(np.clip(values, -_HUGE, _HUGE), return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2) / len(values)
    wanted = np.searchsorted(ranks, np.linspace(0, 1, _MAX_KNOTS)).clip(max=len(distinct) - 1)
    kept = np.unique(wanted)
    normal = NormalDist()
    return distinct[kept], np.array([normal.inv_cdf(rank) for rank in ranks[kept].tolist()])


# --- where there is nothing to fit on ---


def _feature_of(scale: FeatureScale, plane: int) -> Feature:
    scores = np.linspace(-BOUND, BOUND, 101)
    knots = scale.centre + scale.spread * scores
    return Feature(knots if scale.log_offset is None else np.exp(knots) - scale.log_offset, scores, _MEANS, plane=plane)


def _feature_of_any_size(name: str) -> Feature:
    """Orders of magnitude, where nothing is known of a feature."""
    scores = np.linspace(-BOUND, BOUND, 101)
    return Feature(np.sinh(_MAGNITUDES * scores), scores, _MEANS, plane=hash_of(name) if name else 0)


def _standard_normal() -> Doubles:
    normal = NormalDist()
    return np.array([normal.inv_cdf((place + 0.5) / 1000) for place in range(1000)])


_MEANS = waves(_standard_normal()).mean(axis=0)
_MAGNITUDES = 2.5

# Of so many items such a word is in a fifth, and any other in a few.
_N_ITEMS_AT_ALL, _N_FREQUENT, _N_SEVERAL = 10_000, 2_000, 5


def _plain(scales: Mapping[str, FeatureScale], frequent_words: Collection[str]) -> CatalogueStatistics:
    hashes = np.sort(hashes_of(sorted(set(frequent_words))))
    nothing = np.empty(0)
    return CatalogueStatistics(
        _N_ITEMS_AT_ALL,
        {name: _feature_of(scale, plane) for plane, (name, scale) in enumerate(scales.items())},
        hashes,
        np.full(len(hashes), _N_FREQUENT, np.uint32),
        Heaviest(np.empty(0, np.uint64), np.empty(0, np.bool_), nothing, nothing),
        count_of_unknown=_N_SEVERAL,
        is_fitted=False,
    )
