"""Fits the collaborative model on what members like and do, and puts it in force if it is no worse: ``main.py fit``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import numpy as np

from core.errors import ConfigurationError
from core.fitted_collaborative import MODEL_KIND, FittedCollaborative
from core.ports.model_store import ModelOrigin, ModelRegistry, ModelStore
from training.fusion_choice import K
from training.observations import Observed, Tell
from training.promotion import ActiveVersion, Comparison, ShownTo, Trial, hold_out, nothing_shown
from training.recipe import Recipe, choose_recipe


class Models(ModelStore, ModelRegistry, Protocol):
    """A store of models that knows their history."""


@dataclass(frozen=True, slots=True)
class FitReport:
    """What was fitted, how good it was before it was fitted on everything, and how good beside the active version.

    ``metrics`` are of validation, within what is not held out, and of the holdout.
    """

    fitted: FittedCollaborative
    metrics: Mapping[str, float]
    recipe: Recipe
    comparison: Comparison
    until_s: float | None

    def __iter__(self) -> Iterator[str]:
        """As lines for people."""
        found = self.metrics
        n_users, n_items, n_pairs = (int(found[name]) for name in ("n_users", "n_items", "n_interactions"))
        yield f"version {self.fitted.version}: {n_pairs:,} interactions of {n_users:,} members with {n_items:,} items"
        for name, prefix in (("fused", ""), ("collaborative alone", "collaborative_"), ("popularity", "popularity_")):
            recall, ndcg = found[f"{prefix}recall"], found[f"{prefix}ndcg"]
            yield f"validation, {name}: Recall@{K} {recall:.4f}, NDCG@{K} {ndcg:.4f}"
        recall, ndcg = found["holdout_recall"], found["holdout_ndcg"]
        yield f"held out, {self.comparison.held_out}: Recall@{K} {recall:.4f}, NDCG@{K} {ndcg:.4f}"
        yield f"chosen: {self.recipe.parameters}, {self.recipe.weights}"


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of a version, and why; ``changed`` where it is in force and was not before."""

    version: str
    changed: bool
    in_force: bool
    reason: str

    def __str__(self) -> str:
        if self.in_force:
            return f"version {self.version} is in force: {self.reason}"
        return f"version {self.version} is kept, but not put in force: {self.reason}"


async def active_of(models: Models) -> ActiveVersion | None:
    """The version in force with what is known of it."""
    version = await models.active_version(MODEL_KIND)
    if version is None:
        return None
    try:
        payload = await models.load(MODEL_KIND, version)
        fitted = None if payload is None else FittedCollaborative.from_bytes(payload)
    except ConfigurationError:
        fitted = None
    origin = await models.origin(MODEL_KIND, version) or ModelOrigin()
    until_s = origin.data_until.timestamp() if origin.data_until else None
    return ActiveVersion(version, fitted, Recipe.from_json(origin.recipe), until_s)


def fit_on(
    observed: Observed,
    *,
    active: ActiveVersion | None = None,
    budget_s: float = 120.0,
    seed: int = 0,
    tell: Tell = lambda _: None,
    shown_to: ShownTo = nothing_shown,
) -> FitReport:
    """Choose a recipe without what is held out, judge it on that beside the active version, then fit on everything.

    Likes of what members were shown by ``shown_to`` do not count in that judgement: see ``training.promotion``.
    """
    holdout = hold_out(observed, active.until_s if active else None, seed=seed)
    chosen, metrics = choose_recipe(observed, holdout.split.train, budget_s=budget_s, seed=seed, tell=tell)
    trial = Trial(observed, holdout, seed=seed, tell=tell, shown_to=shown_to)
    recipe = trial.settled(chosen, active)
    comparison = trial.compare(recipe, active)
    tell("fitting on all interactions")
    fitted = FittedCollaborative(observed.item_ids, recipe.fitted(observed, seed=seed), recipe.weights)
    sizes = {
        "n_users": len(np.unique(observed.data.users)),
        "n_items": len(observed.item_ids),
        "n_interactions": len(observed.data.items),
    }
    metrics |= {**{name: float(n) for name, n in sizes.items()}, **dict(comparison.metrics())}
    return FitReport(fitted, metrics, recipe, comparison, observed.until_s)


async def keep(models: Models, report: FitReport, *, data_figures: str = "{}", refused: str | None = None) -> Kept:
    """Save what was fitted; put it in force unless it is worse than the active version, or ``refused`` says why not.

    What was compared with a version that is not active any more is kept, and not put in force.
    """
    version, comparison = report.fitted.version, report.comparison
    await models.save(MODEL_KIND, version, report.fitted.to_bytes(), report.metrics)
    until = None if report.until_s is None else datetime.fromtimestamp(report.until_s, UTC)
    origin = ModelOrigin(recipe=report.recipe.to_json(), data_figures=data_figures, data_until=until)
    await models.note_origin(MODEL_KIND, version, origin)
    if await models.active_version(MODEL_KIND) == version:
        return Kept(version, changed=False, in_force=True, reason="it was already")
    if refused is not None or comparison.worse_in:
        return Kept(version, changed=False, in_force=False, reason=refused or comparison.reason)
    before, reason = comparison.active_version, comparison.reason
    if not await models.promote(MODEL_KIND, version, instead_of=before, cause="fit", reason=reason):
        reason = f"it was compared with {before or 'none'}, and meanwhile another was put in force"
        return Kept(version, changed=False, in_force=False, reason=reason)
    return Kept(version, changed=True, in_force=True, reason=reason)
