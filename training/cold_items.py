"""Items that nobody has touched: their content says where in the space of the factors they would be."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from core.collaborative import Floats, Ridge
from training.collaborative_fit import FactorConfig, Matrix, fit_factors, likes_of

DEFAULT_CONFIG = FactorConfig(128, Ridge(0.05, 0.01))
_RIDGE = 10.0


@dataclass(frozen=True, slots=True)
class ContentRegression:
    """Ridge regression from content to item vectors, in which an item counts as the root of how often it was touched.

    ``weights`` float32 (n_features, dim); ``listeners`` float32 (n_users, dim), the training users' vectors.
    """

    weights: Floats
    listeners: Floats

    @classmethod
    def fit(
        cls,
        interactions: Matrix,
        content: Matrix,
        config: FactorConfig = DEFAULT_CONFIG,
        *,
        ridge: float = _RIDGE,
        seed: int = 0,
    ) -> "ContentRegression":
        """From the items that anybody has; ``content`` is (n_items, n_features)."""
        block = fit_factors(interactions, config, seed=seed)
        known = np.bincount(interactions.indices, minlength=interactions.shape[1])
        weighted = sp.csr_array(sp.diags_array(np.sqrt(known).astype(np.float32)) @ content)
        gram = (weighted.T @ content).toarray()
        gram[np.diag_indices_from(gram)] += ridge
        weights = scipy.linalg.solve(gram, weighted.T @ block.vectors, assume_a="pos", overwrite_a=True)
        return cls(np.asarray(weights, np.float32), block.fold_in(likes_of(interactions)))

    def vectors(self, content: Matrix) -> Floats:
        """Where items of this content would be, (n, dim)."""
        return np.asarray(content @ self.weights)
