"""All that a fit depends on besides its data, chosen on listeners held out whole, and kept beside what it made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from pydantic import TypeAdapter, ValidationError

from core.collaborative import CollaborativeModel, Doubles, Indices, Likes
from core.evaluation import Quality, quality_at
from core.ports.collaborative import FusionWeights
from core.splits import Interactions, Mask, Split, hold_out_users
from training.fusion_choice import Candidates, ItemSignals, K, Scorer, candidates_of, choose_weights, quality_of
from training.observations import Observed, Tell
from training.rank import some_users
from training.tuning import DEFAULTS, Parameters, fit, popularity_of, tune
from training.validation import interaction_matrix, listeners_of, users_asked, validation_of
from training.weighing import Weighing, choose_weighing, weighed

# What fusion is judged by: scoring every item for a listener takes long where there are many.
_MAX_JUDGED, _MIN_JUDGED, _MAX_SCORES = 1000, 200, 40_000_000
# One less than what a listener must have: of those of five items one may be held out.
_MIN_ITEMS = 4


@dataclass(frozen=True, slots=True)
class Recipe:
    """Parameters of the model, how strongly the weights of interactions count, and the mixture of sources."""

    parameters: Parameters = DEFAULTS
    strength: float = Weighing().train
    weights: FusionWeights = field(default_factory=FusionWeights)

    def to_json(self) -> str:
        """For the store of models."""
        return _ADAPTER.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> "Recipe | None":
        """What ``to_json`` wrote; None where it is of a program that chose other things."""
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError:
            return None

    def fitted(self, observed: Observed, mask: Mask | None = None, *, seed: int) -> CollaborativeModel:
        """Fit on the pairs that ``mask`` keeps."""
        matrix = interaction_matrix(weighed(observed.data, self.strength), mask)
        return fit(matrix, observed.content, self.parameters, seed=seed)


_ADAPTER = TypeAdapter(Recipe)


def choose_recipe(
    observed: Observed, mask: Mask, *, budget_s: float, seed: int, tell: Tell
) -> tuple[Recipe, dict[str, float]]:
    """By the pairs that ``mask`` keeps alone; and how good lists are with it, with the model alone, by popularity."""
    data = observed.data.only(mask)
    parameters, strength = _tuned(data, observed, budget_s, seed, tell)
    weights, metrics = _judged(data, observed, Recipe(parameters, strength), seed, tell)
    return Recipe(parameters, strength, weights), metrics


def _tuned(data: Interactions, observed: Observed, budget_s: float, seed: int, tell: Tell) -> tuple[Parameters, float]:
    """Parameters, and how strongly weights count in training."""
    sample = some_users(data, seed)
    split = hold_out_users(sample, min_pairs=_MIN_ITEMS, seed=seed)
    fold = validation_of(sample, split, observed.content)
    parameters = tune([fold], budget_s=budget_s, seed=seed, tell=tell)
    return parameters, choose_weighing(sample, split, observed.content, parameters, seed=seed, tell=tell).train


def _judged(
    data: Interactions, observed: Observed, recipe: Recipe, seed: int, tell: Tell
) -> tuple[FusionWeights, dict[str, float]]:
    """The weights of the sources, and how good lists are with them, with the model alone and by popularity alone."""
    split = hold_out_users(data, min_pairs=_MIN_ITEMS, seed=seed)
    tell("fitting without the listeners that fusion is judged by")
    train = interaction_matrix(weighed(data, recipe.strength), split.train)
    model = fit(train, observed.content, recipe.parameters, seed=seed)
    asked = Asked.of(observed, data, split)
    candidates = asked.candidates(model)
    weights = choose_weights(candidates, asked.targets, tell=tell)
    judged = {
        "": quality_of(candidates, asked.targets, weights),
        "collaborative_": quality_at(model.top(asked.inputs, K)[0], asked.targets, K),
        "popularity_": quality_at(_popular(popularity_of(train), asked.inputs), asked.targets, K),
    }
    return weights, {name: value for prefix, each in judged.items() for name, value in means_of(prefix, each)}


@dataclass(frozen=True, slots=True)
class Asked:
    """Listeners of whom the first stage is told ``inputs``, and who went on to like ``targets``.

    ``users`` int64 (n,): which of ``Observed.data`` they are. ``passed_over``, where given, are items of each listener,
    int64 (k,), that stand on no list and are no target.
    """

    users: Indices
    inputs: Likes
    targets: Likes
    signals: ItemSignals
    passed_over: Sequence[Indices] = ()

    @classmethod
    def of(cls, observed: Observed, data: Interactions, split: Split) -> "Asked":
        """Of ``data``, pairs of ``observed``, as ``split`` divides it; evenly thinned where there are many."""
        n_items = len(observed.item_ids)
        n_judged = min(max(_MAX_SCORES // n_items, _MIN_JUDGED), _MAX_JUDGED)
        # Weights as they are: so they are told to the model in serving.
        asked = replace(data, confidences=data.weights.astype(np.float32))
        users = users_asked(data, split, n_judged)
        inputs, targets = listeners_of(asked, split, n_items, n_judged)
        counts = popularity_of(interaction_matrix(data, split.train))
        return cls(
            users,
            inputs,
            targets,
            ItemSignals(observed.vectors, np.log1p(counts).astype(np.float32), observed.creators),
        )

    def candidates(self, model: Scorer) -> list[Candidates]:
        """What the first stage would find for each."""
        found = candidates_of(model, self.inputs, self.signals)
        if not self.passed_over:
            return list(found)
        return [each.without(items) for each, items in zip(found, self.passed_over, strict=True)]

    def passing_over(self, items: Sequence[Indices]) -> "Asked":
        """The same listeners asked for all but ``items``, indices int64 (k,) for each; some may have no target left."""
        if not any(map(len, items)):
            return self
        width = len(self.signals.vectors)
        owners = np.repeat(np.arange(len(items)), [len(each) for each in items])
        theirs = owners * width + np.concatenate([np.empty(0, np.int64), *items])
        kept = ~np.isin(self.targets.owners() * width + self.targets.items, theirs)
        counts = np.bincount(self.targets.owners()[kept], minlength=self.targets.n_rows)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        targets = Likes(starts, self.targets.items[kept], self.targets.weights[kept])
        return replace(self, targets=targets, passed_over=items)


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


def means_of(prefix: str, quality: Quality) -> Iterator[tuple[str, float]]:
    """Recall and NDCG by name."""
    yield f"{prefix}recall", float(quality.recall.mean())
    yield f"{prefix}ndcg", float(quality.ndcg.mean())
