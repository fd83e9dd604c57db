"""Measures the collaborative model beside baselines on any data set: ``main.py evaluate``."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.collaborative import CollaborativeModel, Floats, Indices, Likes, top_items
from core.errors import ConfigurationError
from core.evaluation import (
    Interval,
    Quality,
    bootstrap,
    coverage,
    intra_list_diversity,
    mean_of,
    novelty,
    pooled_recall,
    quality_at,
)
from core.splits import Interactions, Mask, Split, hold_out_items, hold_out_per_user, hold_out_users, split_by_time
from training import baselines
from training.baselines import Scorer
from training.collaborative_fit import Matrix
from training.interaction_files import read_interactions, read_items
from training.item_content import content_of
from training.tuning import Parameters, fit, popularity_of, tune
from training.validation import interaction_matrix, listeners_of, validation_of

_LISTENERS_AT_ONCE = 500
_SMALL_CATALOGUE = 20_000
_OURS = "ours"


@dataclass(frozen=True, slots=True)
class Row:
    """One method's figures, with 95 % bootstrap intervals over listeners where listeners are what varies."""

    method: str
    recall: Interval
    precision: Interval
    hit_rate: Interval
    average_precision: Interval
    ndcg: Interval
    coverage: float
    novelty: float
    diversity: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The table, and all that it depends on."""

    dataset: str
    protocol: str
    k: int
    seed: int
    n_listeners: int
    parameters: Parameters
    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[str]:
        """As lines for people."""
        yield f"{self.dataset}, protocol {self.protocol}, {self.n_listeners} listeners, lists of {self.k}"
        names = ("recall", "precision", "hit_rate", "average_precision", "ndcg")
        yield " ".join([f"{'method':12}", *(f"{name:>24}" for name in names), "  coverage  novelty  diversity"])
        for row in self.rows:
            cells = (_shown(getattr(row, name)) for name in names)
            yield f"{row.method:12} {' '.join(cells)}  {row.coverage:8.4f} {row.novelty:8.2f} {row.diversity:10.4f}"
        yield f"chosen: {self.parameters}"


def _shown(interval: Interval) -> str:
    return f"{interval.value:.4f} ({interval.low:.4f}-{interval.high:.4f})".rjust(24)


def evaluate(
    dataset: Path,
    protocol: str,
    *,
    items: Path | None = None,
    k: int = 20,
    budget_s: float = 120.0,
    seed: int = 0,
    json_out: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Fit on the training part, tune on a validation split of it, and score the test part once.

    ``protocol`` is ``known`` (some items of each user are asked for), ``new`` (users held out whole), ``cold`` (items
    held out whole) or ``time`` (the last fifth). Raises ``ConfigurationError``.
    """
    data = read_interactions(dataset)
    split = _split(data, protocol, seed)
    content = _content(data, items)
    inner = _inner(data, split, protocol, seed + 1)
    parameters = tune([validation_of(data, inner, content)], budget_s=budget_s, seed=seed, tell=tell)
    rows, n_listeners = _rows(data, split, content, parameters, k, seed, cold=protocol == "cold")
    found = Evaluation(dataset.name, protocol, k, seed, n_listeners, parameters, rows)
    if json_out is not None:
        json_out.write_text(json.dumps(dataclasses.asdict(found), indent=2), encoding="utf-8")
    return found


def _split(data: Interactions, protocol: str, seed: int) -> Split:
    match protocol:
        case "known":
            return hold_out_per_user(data, seed=seed)
        case "new":
            return hold_out_users(data, seed=seed)
        case "cold":
            return hold_out_items(data, seed=seed)
        case "time" if data.times_s is not None:
            return split_by_time(data)
        case "time":
            raise ConfigurationError("protocol time needs a column occurred_at with an instant in every row")
    raise ConfigurationError(f"protocol must be known, new, cold or time, got {protocol!r}")


def _inner(data: Interactions, split: Split, protocol: str, seed: int) -> Split:
    """The training part divided once more in the same way, as masks over all interactions."""
    kept = np.flatnonzero(split.train)
    times = None if data.times_s is None else data.times_s[kept]
    train = Interactions(data.users[kept], data.items[kept], data.weights[kept], times, data.user_ids, data.item_ids)
    inner = _split(train, protocol, seed)
    return Split(*(_widened(mask, kept, len(data.users)) for mask in (inner.train, inner.inputs, inner.targets)))


def _widened(mask: Mask, kept: Indices, n: int) -> Mask:
    wide = np.zeros(n, np.bool_)
    wide[kept] = mask
    return wide


def _content(data: Interactions, items: Path | None) -> Matrix | None:
    if items is None:
        return None
    table, places = read_items(items), {item: place for place, item in enumerate(data.item_ids)}
    kept = table.only(places)
    return content_of(kept, places, len(places))


def _rows(
    data: Interactions, split: Split, content: Matrix | None, parameters: Parameters, k: int, seed: int, *, cold: bool
) -> tuple[tuple[Row, ...], int]:
    train = interaction_matrix(data, split.train)
    train = train[np.flatnonzero(np.diff(train.indptr))]
    inputs, targets = listeners_of(data, split, train.shape[1])
    model = fit(train, content, parameters, seed=seed)
    shown = _Shown(train, model, np.unique(data.items[split.targets]) if cold else None)
    rows = []
    for name, scorer in _methods(train, model, seed).items():
        top = shown.top(scorer, inputs, k)
        rows.append(_row(name, top, quality_at(top, targets, k), train, model.item_vectors))
    return tuple(rows), targets.n_rows


def _methods(train: Matrix, model: CollaborativeModel, seed: int) -> dict[str, Scorer]:
    methods = {
        "popularity": baselines.popularity(train),
        "item-kNN": baselines.item_knn(train),
        "ALS": baselines.implicit_als(train, seed=seed),
    }
    if train.shape[1] <= _SMALL_CATALOGUE:
        methods["EASE"] = baselines.ease(train)
    return {**methods, _OURS: model.scores}


@dataclass(frozen=True, slots=True)
class _Shown:
    """Makes lists of a scorer: of all items, or of the cold ones alone."""

    train: Matrix
    model: CollaborativeModel
    cold: Indices | None

    def top(self, scorer: Scorer, inputs: Likes, k: int) -> Indices:
        parts = [
            inputs.rows(start, start + _LISTENERS_AT_ONCE) for start in range(0, inputs.n_rows, _LISTENERS_AT_ONCE)
        ]
        return np.concatenate([self._top(scorer(part), part, k) for part in parts])

    def _top(self, scores: Floats, inputs: Likes, k: int) -> Indices:
        if self.cold is None:
            return top_items(scores, inputs, popularity_of(self.train), k)[0]
        nothing = Likes.of([[]] * inputs.n_rows)
        return self.cold[top_items(scores[:, self.cold], nothing, np.zeros(len(self.cold)), k)[0]]


def _row(name: str, top: Indices, quality: Quality, train: Matrix, vectors: Floats) -> Row:
    means = {
        measure: bootstrap(quality, mean_of(measure))
        for measure in ("precision", "hit_rate", "average_precision", "ndcg")
    }
    return Row(
        method=name,
        recall=bootstrap(quality, pooled_recall),
        **means,
        coverage=coverage(top, train.shape[1]),
        novelty=novelty(top, popularity_of(train), train.shape[0]),
        diversity=intra_list_diversity(top, vectors),
    )
