"""Interactions as matrices, and training data divided once more for choosing parameters."""

import numpy as np
import scipy.sparse as sp

from core.collaborative import Indices, Likes
from core.splits import Interactions, Mask, Split
from training.collaborative_fit import Matrix, likes_of
from training.tuning import Validation

_MAX_LISTENERS = 3000
# Beyond this many items parameters are chosen on the most popular ones: a dense block costs the cube of its side.
_MAX_ITEMS = 5000


def interaction_matrix(data: Interactions, mask: Mask | None = None, *, n_items: int | None = None) -> Matrix:
    """The confidence in each pair that ``mask`` keeps, else 1, (n_users, n_items)."""
    kept = np.ones(len(data.users), np.bool_) if mask is None else mask
    values = np.ones(int(kept.sum()), np.float32) if data.confidences is None else data.confidences[kept]
    shape = (len(data.user_ids), n_items or len(data.item_ids))
    matrix = sp.csr_array((values, (data.users[kept], data.items[kept])), shape=shape)
    matrix.sort_indices()
    return matrix


def listeners_of(
    data: Interactions, split: Split, n_items: int, max_listeners: int | None = None
) -> tuple[Likes, Likes]:
    """Inputs and targets of the users that have targets, row by row; evenly thinned to ``max_listeners``."""
    inputs, targets = (interaction_matrix(data, mask, n_items=n_items) for mask in (split.inputs, split.targets))
    rows = users_asked(data, split, max_listeners)
    return likes_of(inputs[rows]), likes_of(targets[rows])


def users_asked(data: Interactions, split: Split, max_listeners: int | None = None) -> Indices:
    """The users of the rows of ``listeners_of``, int64 (n,), rising."""
    users = np.unique(data.users[split.targets])
    if max_listeners is None or len(users) <= max_listeners:
        return users
    return users[np.linspace(0, len(users) - 1, max_listeners).astype(np.int64)]


def validation_of(data: Interactions, split: Split, content: Matrix | None) -> Validation:
    """A validation small enough to fit many times; ``content`` is (n_items, n_features) or None."""
    n_items = content.shape[0] if content is not None else len(data.item_ids)
    train = interaction_matrix(data, split.train, n_items=n_items)
    users = np.flatnonzero(np.diff(train.indptr))
    inputs, targets = listeners_of(data, split, n_items, _MAX_LISTENERS)
    validation = Validation(train[users], content, inputs, targets)
    if min(len(users) + (content.shape[1] if content is not None else 0), n_items) <= _MAX_ITEMS:
        return validation
    popular = np.argsort(-np.bincount(train.indices, minlength=n_items), kind="stable")[:_MAX_ITEMS]
    return _restricted(validation, np.sort(popular))


def _restricted(data: Validation, items: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Validation:
    n_items = data.interactions.shape[1]
    inputs, targets = (
        sp.csr_array((likes.weights, likes.items, likes.starts), shape=(likes.n_rows, n_items))[:, items]
        for likes in (data.inputs, data.targets)
    )
    rows = np.flatnonzero(np.diff(targets.indptr))
    content = None if data.content is None else data.content[items]
    return Validation(
        sp.csr_array(data.interactions[:, items]), content, likes_of(inputs[rows]), likes_of(targets[rows])
    )
