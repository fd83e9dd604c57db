"""Small fitted models whose scores are easily worked out."""

from collections.abc import Mapping, Sequence

import numpy as np

from core.collaborative import CollaborativeModel, LinearBlock
from core.fitted_collaborative import FittedCollaborative
from core.ports.arrays import Floats
from core.ports.collaborative import FusionWeights

WEIGHTS = FusionWeights(content=0.5, collaborative=1.0, popularity=0.1)


def fitted_of(
    vectors: Floats,
    *,
    item_ids: Sequence[int] | None = None,
    weights: FusionWeights = WEIGHTS,
    inputs: Floats | None = None,
) -> FittedCollaborative:
    """A model of one block; who likes an item has its row of ``inputs``, else of ``vectors``, for a vector."""
    n_items = len(vectors)
    block = LinearBlock.of(vectors, vectors if inputs is None else inputs)
    popularity = np.arange(n_items, 0, -1, dtype=np.float64)
    model = CollaborativeModel([block], [1.0], popularity, popularity_weight=0.01)
    ids = np.arange(1, n_items + 1) if item_ids is None else np.array(item_ids)
    return FittedCollaborative(ids.astype(np.int64), model, weights)


def going_together(groups: Mapping[int, int], *, weights: FusionWeights = WEIGHTS) -> FittedCollaborative:
    """Who likes an item likes those of the same group (0, 1, ...); ``groups`` by item id."""
    ids = sorted(groups)
    vectors = np.eye(max(groups.values()) + 1, dtype=np.float32)[[groups[item_id] for item_id in ids]]
    return fitted_of(vectors, item_ids=ids, weights=weights)
