"""Fits on interactions and ranks for queries, with nothing but files and defaults: ``main.py rank``."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from core.collaborative import CollaborativeModel, Floats, Indices, Likes, top_items
from core.errors import ConfigurationError
from core.splits import Interactions, Mask, Split, hold_out_per_user, hold_out_users
from training.baselines import matrix_of
from training.collaborative_fit import Matrix
from training.interaction_files import Queries, read_interactions, read_items, read_queries
from training.item_content import content_of
from training.tuning import DEFAULTS, Parameters, fit, tune
from training.validation import interaction_matrix, validation_of
from training.weighing import Weighing, choose_weighing, weighed, weighed_likes

# Scores that are held at once, 4 bytes each and twice.
_MAX_SCORES = 1 << 24
_MAX_QUERIES_AT_ONCE = 1000
# Users enough to choose parameters by: what is chosen on more of them takes longer and is hardly ever another.
_MAX_USERS_TUNED_ON = 20_000

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RankReport:
    """What was ranked: how many queries, and how many of them by content or by popularity alone.

    ``n_complete`` queries like every item there is, so that nothing is left to rank for them.
    """

    n_queries: int
    n_by_content: int
    n_by_popularity: int
    n_complete: int
    parameters: Parameters
    weighing: Weighing

    def __iter__(self) -> Iterator[str]:
        """As lines for people."""
        yield f"{self.n_queries} queries ranked; {self.n_by_content} by content, {self.n_by_popularity} by popularity"
        if self.n_complete:
            yield f"{self.n_complete} queries like every item there is: nothing is left to rank for them"
        yield f"chosen: {self.parameters}, {self.weighing}"


def rank(
    train: Path,
    queries: Path,
    out: Path,
    *,
    items: Path | None = None,
    n: int = 20,
    budget_s: float = 120.0,
    seed: int = 0,
    tell: Tell = lambda _: None,
) -> RankReport:
    """Write ``query_id,rank,item_id,score`` for every query; raises ``ConfigurationError`` on unusable files."""
    data = read_interactions(train)
    tell(f"{len(data.users)} pairs of {len(data.user_ids)} users and {len(data.item_ids)} items")
    item_ids, content = _with_items(data, items)
    asked, unknown = read_queries(queries, {item: place for place, item in enumerate(item_ids)})
    asked = Queries(asked.query_ids, _without(asked.likes, len(item_ids)))
    tell(f"{len(asked.query_ids)} queries; {len(unknown)} of their items are in no file")
    parameters, weighing = _tuned(data, asked, content, budget_s, seed, tell)
    tell("fitting on all interactions")
    interactions = interaction_matrix(weighed(data, weighing.train), n_items=len(item_ids))
    model = fit(interactions, content, parameters, seed=seed)
    asked = replace(asked, likes=weighed_likes(asked.likes, weighing.asked))
    ranker = Ranker(model, interactions, content)
    _write(out, asked, item_ids, ranker, n, tell)
    by_content, by_popularity = len(ranker.by_content(asked.likes)), len(ranker.by_popularity(asked.likes))
    n_complete = int((asked.likes.counts == len(item_ids)).sum())
    return RankReport(asked.likes.n_rows, by_content, by_popularity, n_complete, parameters, weighing)


def _with_items(data: Interactions, items: Path | None) -> tuple[list[str], Matrix | None]:
    """All items that may be ranked, those of the training data first, and their content."""
    if items is None:
        return list(data.item_ids), None
    table = read_items(items)
    item_ids = list(dict.fromkeys([*data.item_ids, *table.item_ids]))
    return item_ids, content_of(table, {item: place for place, item in enumerate(item_ids)}, len(item_ids))


def _without(likes: Likes, n_items: int) -> Likes:
    """Without the items that no file knows."""
    kept = likes.items < n_items
    starts = np.concatenate([[0], np.cumsum(kept)])[likes.starts]
    return Likes(starts.astype(np.int64), likes.items[kept], likes.weights[kept])


def _tuned(
    data: Interactions, queries: Queries, content: Matrix | None, budget_s: float, seed: int, tell: Tell
) -> tuple[Parameters, Weighing]:
    """Chosen on a split that asks as the queries do; the defaults where there is too little to split."""
    sample = some_users(data, seed)
    split = _split(sample, queries, seed)
    if not split.targets.any() or not split.train.any():
        tell("too little data to choose parameters by: the defaults it is")
        return DEFAULTS, Weighing()
    parameters = tune([validation_of(sample, split, content)], budget_s=budget_s, seed=seed, tell=tell)
    return parameters, choose_weighing(sample, split, content, parameters, seed=seed, tell=tell)


def some_users(data: Interactions, seed: int) -> Interactions:
    """As many users as parameters are chosen by, drawn at random where there are more."""
    n_users = len(data.user_ids)
    if n_users <= _MAX_USERS_TUNED_ON:
        return data
    chosen = np.random.default_rng(seed).choice(n_users, _MAX_USERS_TUNED_ON, replace=False)
    return data.only(np.isin(data.users, chosen))


def _split(data: Interactions, queries: Queries, seed: int) -> Split:
    """Users held out whole, but where most queries are users of the training data."""
    n_known = len(set(queries.query_ids) & set(data.user_ids))
    return (hold_out_per_user if 2 * n_known > len(queries.query_ids) else hold_out_users)(data, seed=seed)


class Ranker:
    """The model, and for queries of which it knows no item the neighbours by content."""

    def __init__(self, model: CollaborativeModel, interactions: Matrix, content: Matrix | None) -> None:
        self._model = model
        n_users_of = np.bincount(interactions.indices, minlength=interactions.shape[1])
        self._touched = n_users_of > 0
        self._content = content
        self._described = np.zeros(len(n_users_of), np.bool_) if content is None else np.diff(content.indptr) > 0

    def by_content(self, likes: Likes) -> Indices:
        """Queries of which nobody had any item, but some item is described."""
        return np.flatnonzero(~_any(likes, self._touched) & _any(likes, self._described))

    def by_popularity(self, likes: Likes) -> Indices:
        """Queries of which nothing is known."""
        return np.flatnonzero(~_any(likes, self._touched | self._described))

    def top(self, likes: Likes, n: int) -> tuple[Indices, Floats]:
        """As ``CollaborativeModel.top``."""
        scores = self._model.scores(likes)
        rows = self.by_content(likes)
        if len(rows) and self._content is not None:
            profiles = sp.csr_array(matrix_of(likes, len(self._touched))[rows] @ self._content)
            scores[rows] = (profiles @ self._content.T).toarray()
        return top_items(scores, likes, self._model.popularity, n)


def _any(likes: Likes, flags: Mask) -> Mask:
    return np.asarray(np.bincount(likes.owners(), flags[likes.items], minlength=likes.n_rows) > 0)


def _write(out: Path, queries: Queries, item_ids: list[str], ranker: Ranker, n: int, tell: Tell) -> None:
    """All or nothing: who stops it half-way finds no file, or the one that was there."""
    partial = out.with_name(f"{out.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("query_id", "rank", "item_id", "score"))
            step = max(1, min(_MAX_QUERIES_AT_ONCE, _MAX_SCORES // max(1, len(item_ids))))
            for start in range(0, queries.likes.n_rows, step):
                tell(f"ranking for query {start + 1} of {queries.likes.n_rows}")
                places, scores = ranker.top(queries.likes.rows(start, start + step), n)
                for query, row, row_scores in zip(queries.query_ids[start:], places, scores, strict=False):
                    writer.writerows(_ranked(query, row, row_scores, item_ids))
        partial.replace(out)
    except OSError as error:
        raise ConfigurationError(f"{out}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _ranked(query: str, places: Indices, scores: Floats, item_ids: list[str]) -> Iterator[tuple[str, int, str, str]]:
    """What is liked already stands at the end, at -inf."""
    for position, (place, score) in enumerate(zip(places, scores, strict=True), 1):
        if np.isfinite(score):
            yield query, position, item_ids[place], f"{score:.6g}"
