"""Fits the collaborative model on what members like and do, and puts it in force: ``main.py fit``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from core.collaborative import Doubles, Indices, Likes
from core.errors import ConfigurationError
from core.evaluation import Quality, quality_at
from core.fitted_collaborative import MODEL_KIND, FittedCollaborative
from core.ports import EmbeddingStore, Floats, FusionWeights, Ids, IndexRows, Interaction, InteractionLog, ModelStore
from core.splits import Interactions, hold_out_users
from training.collaborative_fit import Matrix
from training.fusion_choice import ItemSignals, K, candidates_of, choose_weights, quality_of
from training.interaction_files import ItemTable
from training.item_content import content_of
from training.rank import some_users
from training.tuning import Parameters, fit, popularity_of, tune
from training.validation import interaction_matrix, listeners_of, validation_of
from training.weighing import choose_weighing, weighed

Tell = Callable[[str], None]

MIN_ITEMS = 5
MIN_LISTENERS = 100
MIN_INTERACTIONS = 1000
_BATCHES_A_LINE = 100
# What fusion is judged by: scoring every item for a listener takes long where there are many.
_MAX_JUDGED, _MIN_JUDGED, _MAX_SCORES = 1000, 200, 40_000_000


@dataclass(frozen=True, slots=True)
class Observed:
    """Interactions with items that have vectors, and those items: ``item_ids`` int64 (n,), rising.

    ``vectors`` (n, dim), ``creators`` int64 (n,), -1 where unknown; ``content`` (n, n_features), unit rows.
    """

    data: Interactions
    item_ids: Ids
    vectors: Floats
    creators: Indices
    content: Matrix


@dataclass(frozen=True, slots=True)
class FitReport:
    """What was fitted, how good it was on validation (before it was fitted on everything), and what was chosen."""

    fitted: FittedCollaborative
    metrics: Mapping[str, float]
    parameters: Parameters

    def __iter__(self) -> Iterator[str]:
        """As lines for people."""
        found = self.metrics
        n_users, n_items, n_pairs = (int(found[name]) for name in ("n_users", "n_items", "n_interactions"))
        yield f"version {self.fitted.version}: {n_pairs:,} interactions of {n_users:,} members with {n_items:,} items"
        for name, prefix in (("fused", ""), ("collaborative alone", "collaborative_"), ("popularity", "popularity_")):
            recall, ndcg = found[f"{prefix}recall"], found[f"{prefix}ndcg"]
            yield f"validation, {name}: Recall@{K} {recall:.4f}, NDCG@{K} {ndcg:.4f}"
        yield f"chosen: {self.parameters}, {self.fitted.weights}"


async def observe(
    log: InteractionLog, embeddings: EmbeddingStore, embedder_name: str, *, tell: Tell = lambda _: None
) -> Observed:
    """Read everything; raises ``ConfigurationError`` where there are no vectors, or too few listeners to learn from."""
    rows = await embeddings.load(embedder_name)
    if not len(rows.ids):
        raise ConfigurationError(f"no item has a vector of {embedder_name}: run `python main.py embed` first")
    tell(f"{len(rows.ids)} items with vectors")
    batches = []
    async for batch in log.stream():
        batches.append(_Pairs.of(batch))
        if len(batches) % _BATCHES_A_LINE == 0:
            tell(f"reading interactions: {sum(len(each.items) for each in batches)}")
    pairs = _Pairs.joined(batches)
    tell(f"{len(pairs.items)} interactions")
    pairs = pairs.of_items(rows.ids)
    _refuse_too_few(pairs)
    return _observed(pairs, rows)


def fit_on(observed: Observed, *, budget_s: float = 120.0, seed: int = 0, tell: Tell = lambda _: None) -> FitReport:
    """Choose parameters and weights on listeners held out whole, then fit on everything."""
    parameters, strength = _tuned(observed, budget_s, seed, tell)
    weights, metrics = _judged(observed, parameters, strength, seed, tell)
    tell("fitting on all interactions")
    matrix = interaction_matrix(weighed(observed.data, strength))
    model = fit(matrix, observed.content, parameters, seed=seed)
    sizes = {"n_users": matrix.shape[0], "n_items": matrix.shape[1], "n_interactions": matrix.nnz}
    fitted = FittedCollaborative(observed.item_ids, model, weights)
    return FitReport(fitted, {**metrics, **{name: float(n) for name, n in sizes.items()}}, parameters)


async def keep(models: ModelStore, report: FitReport) -> None:
    """Save what was fitted and put it in force; what is in force already stays so."""
    version = report.fitted.version
    await models.save(MODEL_KIND, version, report.fitted.to_bytes(), report.metrics)
    await models.activate(MODEL_KIND, version)


# --- what there is to fit on ---


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Distinct pairs of ``members`` and ``items``, ids int64 (n,), and ``weights`` float64 (n,)."""

    members: Ids
    items: Ids
    weights: Doubles

    @classmethod
    def of(cls, batch: Sequence[Interaction]) -> "_Pairs":
        members = np.array([each.member_id for each in batch], np.int64)
        items = np.array([each.item_id for each in batch], np.int64)
        return cls(members, items, np.array([each.weight for each in batch], np.float64))

    @classmethod
    def joined(cls, parts: Sequence["_Pairs"]) -> "_Pairs":
        parts = [cls.of(()), *parts]
        columns = ([getattr(part, name) for part in parts] for name in ("members", "items", "weights"))
        return cls(*map(np.concatenate, columns))

    def of_items(self, item_ids: Ids) -> "_Pairs":
        known = np.isin(self.items, item_ids)
        return _Pairs(self.members[known], self.items[known], self.weights[known])


def _refuse_too_few(pairs: _Pairs) -> None:
    n_listeners = int((np.unique(pairs.members, return_counts=True)[1] >= MIN_ITEMS).sum())
    if n_listeners < MIN_LISTENERS:
        raise ConfigurationError(
            f"too few listeners to fit on: {n_listeners} have {MIN_ITEMS} items or more, {MIN_LISTENERS} are needed"
        )
    if len(pairs.items) < MIN_INTERACTIONS:
        raise ConfigurationError(
            f"too few interactions to fit on: there are {len(pairs.items)}, {MIN_INTERACTIONS} are needed"
        )


def _observed(pairs: _Pairs, rows: IndexRows) -> Observed:
    """Items that nobody has touched are left to content, which finds them by their vectors."""
    item_ids, items = np.unique(pairs.items, return_inverse=True)
    member_ids, users = np.unique(pairs.members, return_inverse=True)
    names = [str(item_id) for item_id in item_ids.tolist()]
    members = [str(member_id) for member_id in member_ids.tolist()]
    places = np.searchsorted(rows.ids, item_ids)
    return Observed(
        data=Interactions(users.astype(np.int64), items.astype(np.int64), pairs.weights, None, members, names),
        item_ids=item_ids,
        vectors=np.asarray(rows.vectors[places], np.float32),
        creators=_numbered([rows.creators[place] for place in places.tolist()]),
        content=content_of(_table(names, rows, places), {name: place for place, name in enumerate(names)}, len(names)),
    )


def _numbered(names: Sequence[str | None]) -> Indices:
    numbers: dict[str, int] = {}
    return np.array([-1 if name is None else numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _table(names: list[str], rows: IndexRows, places: Ids) -> ItemTable:
    """What the index knows of items, as a file of items would say it."""
    texts = {
        "genre": [" ".join(rows.genres[place]) for place in places.tolist()],
        "mood": [" ".join(rows.moods[place]) for place in places.tolist()],
        "language": [rows.languages[place] or "" for place in places.tolist()],
        "creator": [rows.creators[place] or "" for place in places.tolist()],
    }
    return ItemTable(names, texts, {})


# --- what is chosen on validation ---


def _tuned(observed: Observed, budget_s: float, seed: int, tell: Tell) -> tuple[Parameters, float]:
    """Parameters, and how strongly weights count in training."""
    sample = some_users(observed.data, seed)
    split = hold_out_users(sample, min_pairs=MIN_ITEMS, seed=seed)
    fold = validation_of(sample, split, observed.content)
    parameters = tune([fold], budget_s=budget_s, seed=seed, tell=tell)
    return parameters, choose_weighing(sample, split, observed.content, parameters, seed=seed, tell=tell).train


def _judged(
    observed: Observed, parameters: Parameters, strength: float, seed: int, tell: Tell
) -> tuple[FusionWeights, dict[str, float]]:
    """The weights of the sources, and how good lists are with them, with the model alone and by popularity alone."""
    data, n_items = observed.data, len(observed.item_ids)
    split = hold_out_users(data, min_pairs=MIN_ITEMS, seed=seed)
    train = interaction_matrix(weighed(data, strength), split.train)
    tell("fitting without the listeners that fusion is judged by")
    model = fit(train, observed.content, parameters, seed=seed)
    n_judged = min(max(_MAX_SCORES // n_items, _MIN_JUDGED), _MAX_JUDGED)
    # Weights as they are: so they are told to the model in serving.
    asked = replace(data, confidences=data.weights.astype(np.float32))
    inputs, targets = listeners_of(asked, split, n_items, n_judged)
    counts = popularity_of(train)
    signals = ItemSignals(observed.vectors, np.log1p(counts).astype(np.float32), observed.creators)
    candidates = list(candidates_of(model, inputs, signals))
    weights = choose_weights(candidates, targets, tell=tell)
    judged = {
        "": quality_of(candidates, targets, weights),
        "collaborative_": quality_at(model.top(inputs, K)[0], targets, K),
        "popularity_": quality_at(_popular(counts, inputs), targets, K),
    }
    return weights, {name: value for prefix, each in judged.items() for name, value in _means(prefix, each)}


def _popular(counts: Doubles, inputs: Likes) -> Indices:
    """The most popular items that are not liked already, (n_rows, K)."""
    order = np.argsort(-counts, kind="stable")
    rows = []
    for row in range(inputs.n_rows):
        liked = inputs.items[inputs.starts[row] : inputs.starts[row + 1]]
        likely = order[: K + len(liked)]
        found = likely[~np.isin(likely, liked)][:K]
        rows.append(np.pad(found, (0, K - len(found)), constant_values=-1))
    return np.stack(rows)


def _means(prefix: str, quality: Quality) -> Iterator[tuple[str, float]]:
    yield f"{prefix}recall", float(quality.recall.mean())
    yield f"{prefix}ndcg", float(quality.ndcg.mean())
