"""Unit vectors in clusters, as those of songs lie."""

import numpy as np

from core.ports.arrays import Floats


def clustered_rows(n: int, dim: int, *, size: int = 50, seed: int = 1) -> Floats:
    """``n`` unit vectors, float32 (n, dim), about ``size`` of them around each centre."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(max(1, n // size), dim))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rows = centres[generator.integers(len(centres), size=n)] + generator.normal(size=(n, dim)) * 0.5 / np.sqrt(dim)
    unit: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit
