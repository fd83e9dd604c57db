"""Measures the collaborative model beside baselines on any data set: ``main.py evaluate``."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from core.collaborative import CollaborativeModel, Doubles, Floats, Indices, Likes, top_items
from core.errors import ConfigurationError
from core.evaluation import (
    Interval,
    Quality,
    bootstrap,
    bootstrap_coverage,
    bootstrap_mean,
    intra_list_diversity,
    mean_of,
    novelty,
    paired_bootstrap,
    pooled_recall,
    quality_at,
)
from core.splits import Interactions, Mask, Split, hold_out_items, hold_out_per_user, hold_out_users, split_by_time
from training import baselines
from training.baselines import BaselineConfigs, Scorer, Tell
from training.cold_items import ColdConfig, ColdModel, mean_cosines, tune_cold
from training.collaborative_fit import Matrix, content_rows
from training.interaction_files import dataset_files, read_interactions, read_items
from training.item_content import content_counts
from training.tuning import Parameters, Validation, fit, popularity_of, tune
from training.validation import interaction_matrix, listeners_of, validation_of
from training.weighing import Weighing, choose_weighing, weighed, weighed_likes

_LISTENERS_AT_ONCE = 500
_N_DIRECTIONS = 256
_OURS = "ours"
_SHOWN = {
    "recall": "Recall",
    "precision": "Precision",
    "hit_rate": "HitRate",
    "average_precision": "MAP",
    "ndcg": "NDCG",
    "coverage": "coverage",
    "novelty": "novelty, bits",
    "diversity": "diversity",
}

Lister = Callable[[Likes], Indices]


@dataclass(frozen=True, slots=True)
class Row:
    """One method's figures with 95 % bootstrap intervals over listeners; how far ours is above it, but for ours."""

    method: str
    recall: Interval
    precision: Interval
    hit_rate: Interval
    average_precision: Interval
    ndcg: Interval
    coverage: Interval
    novelty: Interval
    diversity: Interval
    ours_above_in_recall: Interval | None
    ours_above_in_ndcg: Interval | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The table, and all that it depends on; ``baselines`` is None where none of them can rank (cold items).

    ``left_out`` says of methods that are not in the table why not.
    """

    dataset: str
    protocol: str
    k: int
    seed: int
    n_listeners: int
    parameters: Parameters | ColdConfig
    weighing: Weighing | None
    baselines: BaselineConfigs | None
    left_out: Mapping[str, str]
    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Table | str]:
        """For people."""
        title = f"{self.dataset}, protocol {self.protocol}, {self.n_listeners} listeners, lists of {self.k}"
        above = "ours above it: Recall, NDCG"
        table = Table("method", *_SHOWN.values(), above, title=title, caption="95 % bootstrap intervals over listeners")
        for row in self.rows:
            cells = [_shown(getattr(row, name)) for name in _SHOWN]
            gains = [row.ours_above_in_recall, row.ours_above_in_ndcg]
            table.add_row(row.method, *cells, "\n".join(_shown_gain(gain) for gain in gains if gain is not None))
        yield table
        for name, reason in self.left_out.items():
            yield f"{name}: left out, {reason}"
        yield f"chosen on validation splits of the training part: {self.parameters}, {self.weighing}"
        if self.baselines is not None:
            yield f"and for the baselines: {self.baselines}"


def _shown(interval: Interval) -> str:
    return f"{interval.value:.4f}\n{interval.low:.3f}-{interval.high:.3f}"


def _shown_gain(interval: Interval) -> str:
    return f"{interval.value:+.4f} ({interval.low:+.4f} {interval.high:+.4f})"


def evaluate(
    dataset: Path,
    protocol: str,
    *,
    items: Path | None = None,
    k: int = 20,
    budget_s: float = 120.0,
    seed: int = 0,
    json_out: Path | None = None,
    tell: Tell = lambda _: None,
) -> Evaluation:
    """Fit on the training part, tune on a validation split of it, and score the test part once.

    ``protocol`` is ``known`` (some items of each user are asked for), ``new`` (users held out whole), ``cold`` (items
    held out whole) or ``time`` (the last fifth). Raises ``ConfigurationError``.
    """
    if json_out is not None and not json_out.parent.is_dir():
        raise ConfigurationError(f"--json {json_out}: there is no directory {json_out.parent}")
    interactions, items = dataset_files(dataset, items)
    data = read_interactions(interactions)
    counts = content_of_items(data, items)
    split = split_of(data, protocol, seed)
    if not split.targets.any():
        raise ConfigurationError(f"{dataset}: too little data for protocol {protocol}, nobody is left to ask")
    tell(f"{len(data.users)} pairs of {len(data.user_ids)} users and {len(data.item_ids)} items; protocol {protocol}")
    methods = fit_methods(data, split, protocol, counts, k=k, budget_s=budget_s, seed=seed, tell=tell)
    rows, n_listeners = _rows(data, split, counts, methods.lists, k, seed, tell)
    name = dataset.resolve().name
    found = Evaluation(
        name,
        protocol,
        k,
        seed,
        n_listeners,
        methods.parameters,
        methods.weighing,
        methods.baselines,
        methods.left_out,
        rows,
    )
    if json_out is not None:
        json_out.write_text(json.dumps(dataclasses.asdict(found), indent=2), encoding="utf-8")
    return found


def split_of(data: Interactions, protocol: str, seed: int) -> Split:
    """The split that a protocol makes of the data; raises ``ConfigurationError``."""
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


def content_of_items(data: Interactions, items: Path | None) -> Matrix | None:
    """How often each feature stands in each item's row, (n_items, n_features)."""
    if items is None:
        return None
    table, places = read_items(items), {item: place for place, item in enumerate(data.item_ids)}
    return content_counts(table.only(places), places, len(places))


@dataclass(frozen=True, slots=True)
class Methods:
    """What makes lists, ours last, and what was chosen for it."""

    lists: Mapping[str, Lister]
    parameters: Parameters | ColdConfig
    weighing: Weighing | None
    baselines: BaselineConfigs | None
    left_out: Mapping[str, str]


def fit_methods(
    data: Interactions,
    split: Split,
    protocol: str,
    counts: Matrix | None,
    *,
    k: int = 20,
    budget_s: float = 120.0,
    seed: int = 0,
    tell: Tell = lambda _: None,
) -> Methods:
    """Tune and fit every method. Of ``split.targets`` only which items are cold is looked at, in protocol ``cold``."""
    if protocol == "cold":
        return _cold_methods(data, split, counts, k, budget_s, seed, tell)
    ours = fit_ours(data, split, protocol, counts, budget_s=budget_s, seed=seed, tell=tell)
    configs = baselines.tuned([ours.fold], len(data.item_ids), seed=seed, tell=tell)
    train = train_matrix(data, split)
    scorers = {name: _unweighed(scorer) for name, scorer in baselines.collaborative(train, configs, seed=seed).items()}
    scorers[_OURS] = lambda likes: ours.model.scores(weighed_likes(likes, ours.weighing.asked))
    popularity = popularity_of(train)
    lists = {name: _lister(scorer, popularity, k) for name, scorer in scorers.items()}
    left_out = {} if configs.ease is not None else {"EASE": baselines.too_large(len(data.item_ids))}
    return Methods(lists, ours.parameters, ours.weighing, configs, left_out)


@dataclass(frozen=True, slots=True)
class Ours:
    """The collaborative model, what was chosen for it, and the part of the training data that it was chosen on."""

    model: CollaborativeModel
    parameters: Parameters
    weighing: Weighing
    inner: Split
    fold: Validation


def fit_ours(
    data: Interactions,
    split: Split,
    protocol: str,
    counts: Matrix | None,
    *,
    budget_s: float = 120.0,
    seed: int = 0,
    tell: Tell = lambda _: None,
) -> Ours:
    """Tune on the training part divided by ``protocol`` once more, and fit on all of it; never looks at the targets.

    Raises ``ConfigurationError`` where there is too little data.
    """
    content = None if counts is None else content_rows(counts)
    inner = _inner(data, split, protocol, seed + 1)
    if not inner.targets.any() or not inner.train.any():
        raise ConfigurationError(
            f"too little data to choose parameters by on a split of the training part ({protocol})"
        )
    fold = validation_of(data, inner, content)
    parameters = tune([fold], budget_s=budget_s, seed=seed, tell=tell)
    weighing = choose_weighing(data, inner, content, parameters, seed=seed, tell=tell)
    tell("fitting on the whole training part")
    model = fit(train_matrix(weighed(data, weighing.train), split), content, parameters, seed=seed)
    return Ours(model, parameters, weighing, inner, fold)


def _inner(data: Interactions, split: Split, protocol: str, seed: int) -> Split:
    """The training part divided once more in the same way, as masks over all interactions."""
    kept = np.flatnonzero(split.train)
    inner = split_of(data.only(split.train), protocol, seed)
    return Split(*(_widened(mask, kept, len(data.users)) for mask in (inner.train, inner.inputs, inner.targets)))


def _widened(mask: Mask, kept: Indices, n: int) -> Mask:
    wide = np.zeros(n, np.bool_)
    wide[kept] = mask
    return wide


def train_matrix(data: Interactions, split: Split) -> Matrix:
    """The training part, (n_users, n_items), without the users that are not in it."""
    train = interaction_matrix(data, split.train)
    return train[np.flatnonzero(np.diff(train.indptr))]


def _cold_methods(
    data: Interactions, split: Split, counts: Matrix | None, k: int, budget_s: float, seed: int, tell: Tell
) -> Methods:
    """Among the cold items alone. Nobody has them, so of the baselines only content and chance can rank them."""
    if counts is None:
        raise ConfigurationError("protocol cold ranks items by what they are: give --items")
    if not counts.nnz:
        raise ConfigurationError(
            "protocol cold ranks items by what they are, and the file of items says nothing of them: it needs content "
            "columns beside item_id, filled for items of the interactions"
        )
    train, cold = train_matrix(data, split), np.unique(data.items[split.targets])
    config = tune_cold(train, counts, budget_s=budget_s, seed=seed + 1, tell=tell)
    tell("fitting on the whole training part")
    model = ColdModel.fit(train, counts, config, seed=seed)
    chance = np.random.default_rng(seed).random(len(cold)).astype(np.float32)
    scorers: dict[str, Scorer] = {
        "one list, at random": lambda likes: np.tile(chance, (likes.n_rows, 1)),
        "mean content, cosine": lambda likes: mean_cosines(likes, counts, cold),
        _OURS: lambda likes: model.scores(likes, cold),
    }
    return Methods(
        {name: _cold_lister(_unweighed(scorer), cold, k) for name, scorer in scorers.items()},
        config,
        None,
        None,
        {"popularity, item-kNN, ALS and EASE": "they know nothing of items that nobody has"},
    )


def with_raw_weights(data: Interactions) -> Interactions:
    """Lists made of it have the weights of the file."""
    return dataclasses.replace(data, confidences=data.weights.astype(np.float32))


def _unweighed(scorer: Scorer) -> Scorer:
    return lambda likes: scorer(dataclasses.replace(likes, weights=np.ones_like(likes.weights)))


def _lister(scorer: Scorer, popularity: Doubles, k: int) -> Lister:
    return lambda likes: _filled(*top_items(scorer(likes), likes, popularity, k))


def _cold_lister(scorer: Scorer, cold: Indices, k: int) -> Lister:
    even = np.zeros(len(cold))
    return lambda likes: cold[top_items(scorer(likes), Likes.of([[]] * likes.n_rows), even, k)[0]]


def _filled(top: Indices, scores: Floats) -> Indices:
    """-1 where a list has ended."""
    return np.where(np.isfinite(scores), top, -1)


def _rows(
    data: Interactions,
    split: Split,
    counts: Matrix | None,
    methods: Mapping[str, Lister],
    k: int,
    seed: int,
    tell: Tell,
) -> tuple[tuple[Row, ...], int]:
    train = train_matrix(data, split)
    inputs, targets = listeners_of(with_raw_weights(data), split, train.shape[1])
    tops = {}
    for name, lister in methods.items():
        tops[name] = _in_parts(lister, inputs, f"lists by {name}", tell)
    qualities = {name: quality_at(top, targets, k) for name, top in tops.items()}
    directions = _directions(counts if counts is not None and counts.nnz else train.T, seed)
    popularity = popularity_of(train)
    return tuple(
        _row(name, top, qualities, popularity, train.shape[0], directions) for name, top in tops.items()
    ), targets.n_rows


def _in_parts(lister: Lister, inputs: Likes, what: str, tell: Tell) -> Indices:
    parts = []
    for start in range(0, inputs.n_rows, _LISTENERS_AT_ONCE):
        tell(f"{what}: {start} of {inputs.n_rows} listeners")
        parts.append(lister(inputs.rows(start, start + _LISTENERS_AT_ONCE)))
    return np.concatenate(parts)


def _directions(described: Matrix, seed: int) -> Floats:
    """Vectors whose cosines are about those of the unit content rows, or else of who has an item.

    By a random projection (Johnson and Lindenstrauss), so that no contestant's own vectors say what is diverse.
    """
    rows = content_rows(described, min_items=1)
    projection = np.random.default_rng(seed).normal(size=(rows.shape[1], _N_DIRECTIONS)).astype(np.float32)
    return np.asarray(rows @ projection)


def _row(
    name: str, top: Indices, qualities: Mapping[str, Quality], popularity: Doubles, n_users: int, directions: Floats
) -> Row:
    quality, ours = qualities[name], qualities[_OURS]
    means = {
        measure: bootstrap(quality, mean_of(measure))
        for measure in ("precision", "hit_rate", "average_precision", "ndcg")
    }
    is_ours = name == _OURS
    return Row(
        method=name,
        recall=bootstrap(quality, pooled_recall),
        **means,
        coverage=bootstrap_coverage(top, len(popularity)),
        novelty=bootstrap_mean(novelty(top, popularity, n_users)),
        diversity=bootstrap_mean(intra_list_diversity(top, directions)),
        ours_above_in_recall=None if is_ours else paired_bootstrap(ours, quality, pooled_recall),
        ours_above_in_ndcg=None if is_ours else paired_bootstrap(ours, quality, mean_of("ndcg")),
    )
