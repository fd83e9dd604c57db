"""Fits on interactions and ranks for queries, with nothing but files and defaults: ``main.py rank``."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from core.collaborative import CollaborativeModel, Floats, Indices, Likes, top_items
from core.splits import Interactions, Mask, hold_out_per_user, hold_out_users
from training.baselines import matrix_of
from training.collaborative_fit import Matrix
from training.interaction_files import Queries, read_interactions, read_items, read_queries
from training.item_content import content_of
from training.tuning import Parameters, fit, tune
from training.validation import interaction_matrix, validation_of

_QUERIES_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class RankReport:
    """What was ranked: how many queries, and how many of them by content or by popularity alone."""

    n_queries: int
    n_by_content: int
    n_by_popularity: int
    parameters: Parameters

    def __iter__(self) -> Iterator[str]:
        """As lines for people."""
        yield f"{self.n_queries} queries ranked; {self.n_by_content} by content, {self.n_by_popularity} by popularity"
        yield f"chosen: {self.parameters}"


def rank(
    train: Path,
    queries: Path,
    out: Path,
    *,
    items: Path | None = None,
    n: int = 20,
    budget_s: float = 120.0,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> RankReport:
    """Write ``query_id,rank,item_id,score`` for every query; raises ``ConfigurationError`` on unusable files."""
    data = read_interactions(train)
    tell(f"{len(data.users)} pairs of {len(data.user_ids)} users and {len(data.item_ids)} items")
    item_ids, content = _with_items(data, items)
    interactions = interaction_matrix(data, n_items=len(item_ids))
    places = {item: place for place, item in enumerate(item_ids)}
    asked, unknown = read_queries(queries, places)
    asked = Queries(asked.query_ids, _without(asked.likes, len(item_ids)))
    tell(f"{len(asked.query_ids)} queries; {len(unknown)} of their items are in no file")
    split = hold_out_per_user if _are_known(asked, data) else hold_out_users
    parameters = tune([validation_of(data, split(data, seed=seed), content)], budget_s=budget_s, seed=seed, tell=tell)
    model = fit(interactions, content, parameters, seed=seed)
    return _write(out, asked, item_ids, Ranker(model, interactions, content), n, parameters)


def _with_items(data: Interactions, items: Path | None) -> tuple[list[str], Matrix | None]:
    """All items that may be ranked, those of the training data first, and their content."""
    if items is None:
        return list(data.item_ids), None
    table = read_items(items)
    item_ids = list(dict.fromkeys([*data.item_ids, *table.item_ids]))
    return item_ids, content_of(table, {item: place for place, item in enumerate(item_ids)}, len(item_ids))


def _are_known(queries: Queries, data: Interactions) -> bool:
    """Whether most queries are users of the training data, so that tuning asks what the queries ask."""
    n_known = len(set(queries.query_ids) & set(data.user_ids))
    return 2 * n_known > len(queries.query_ids)


def _without(likes: Likes, n_items: int) -> Likes:
    """Without the items that no file knows."""
    kept = likes.items < n_items
    starts = np.concatenate([[0], np.cumsum(kept)])[likes.starts]
    return Likes(starts.astype(np.int64), likes.items[kept], likes.weights[kept])


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


def _write(
    out: Path, queries: Queries, item_ids: list[str], ranker: Ranker, n: int, parameters: Parameters
) -> RankReport:
    likes = queries.likes
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("query_id", "rank", "item_id", "score"))
        for start in range(0, likes.n_rows, _QUERIES_AT_ONCE):
            places, scores = ranker.top(likes.rows(start, start + _QUERIES_AT_ONCE), n)
            for query, row, row_scores in zip(queries.query_ids[start:], places, scores, strict=False):
                ranked = ((place, score) for place, score in zip(row, row_scores, strict=True) if np.isfinite(score))
                writer.writerows(
                    (query, rank, item_ids[place], f"{score:.6g}") for rank, (place, score) in enumerate(ranked, 1)
                )
    by_content, by_popularity = len(ranker.by_content(likes)), len(ranker.by_popularity(likes))
    return RankReport(likes.n_rows, by_content, by_popularity, parameters)
