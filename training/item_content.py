"""Any columns of an item table as content: words of text, and ranges of numbers, each a feature."""

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse as sp

from core.collaborative import Indices
from core.text_features import token_features, words
from training.collaborative_fit import Matrix, content_rows
from training.interaction_files import ItemTable

_N_RANGES = 16
_MAX_FEATURES = 10_000
_MAX_WORDS_A_CELL = 200


def content_of(table: ItemTable, item_places: dict[str, int], n_items: int) -> Matrix:
    """Unit rows, (n_items, n_features), as ``content_rows`` makes them; zero for items that the table lacks."""
    return content_rows(content_counts(table, item_places, n_items))


def content_counts(table: ItemTable, item_places: dict[str, int], n_items: int) -> Matrix:
    """How often each feature stands in an item's row, (n_items, n_features)."""
    places = np.array([item_places[item] for item in table.item_ids], np.int64)
    tokens: list[list[str]] = [[] for _ in table.item_ids]
    for name, cells in table.texts.items():
        for row, cell in zip(tokens, cells, strict=True):
            row.extend(_text_tokens(name, cell))
    for name, numbers in table.numbers.items():
        for row, found in zip(tokens, _range_tokens(name, numbers), strict=True):
            row.extend(found)
    features = token_features(tokens)
    _, columns = np.unique(features.hashes, return_inverse=True)
    return _counts(places[features.rows], columns.astype(np.int64), n_items)


def _counts(rows: Indices, columns: Indices, n_items: int) -> Matrix:
    """The most frequent features only: each is one more row of the dense block."""
    frequency = np.bincount(columns, minlength=1)
    kept = np.sort(np.argsort(-frequency, kind="stable")[:_MAX_FEATURES])
    inside = np.isin(columns, kept)
    compact = np.searchsorted(kept, columns[inside])
    ones = np.ones(len(compact), np.float32)
    return sp.csr_array((ones, (rows[inside], compact)), shape=(n_items, len(kept)))


def _text_tokens(name: str, cell: str) -> Iterator[str]:
    """The whole cell and its words, each known by its column."""
    found = words(cell)[:_MAX_WORDS_A_CELL]
    if len(found) > 1:
        yield f"{name}={' '.join(found)}"
    yield from (f"{name}:{word}" for word in found)


def _range_tokens(name: str, numbers: Sequence[float]) -> Iterator[list[str]]:
    """The sixteenth of the distribution that a number is in, and the boundary that it is nearer to.

    So neighbours on either side of a boundary have something in common too.
    """
    values = np.array(numbers, np.float64)
    known = values[np.isfinite(values)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, 2 * _N_RANGES + 1)[1:-1])) if len(known) else known
    halves = np.searchsorted(edges, values, "right")
    for value, half in zip(values, halves, strict=True):
        yield [f"{name}~{half // 2}", f"{name}|{(half + 1) // 2}"] if np.isfinite(value) else []
