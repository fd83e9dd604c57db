"""How popular an item is, from what the database knows of it."""

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from core.ports.arrays import Floats

# About twenty likes are worth a half.
_HALF_WAY = 3.0


def popularity(given: npt.ArrayLike, n_likes: npt.ArrayLike) -> Floats:
    """0 to 1, float32 (n,): the greater of ``given`` (0 to 1; NaN where a source gave none) and what the likes say.

    Likes count by their logarithm, since they are distributed with a long tail, and against a fixed scale: one item's
    popularity then does not change because another one became a hit.
    """
    likes = np.log1p(np.asarray(n_likes, dtype=np.float64))
    from_likes = likes / (likes + _HALF_WAY)
    greater = np.fmax(np.asarray(given, dtype=np.float64), from_likes)
    return np.clip(greater, 0.0, 1.0).astype(np.float32)


def popularity_in_sql(given: sa.ColumnElement[float], n_likes: sa.ColumnElement[int]) -> sa.ColumnElement[float]:
    """The same, of columns, either of which may be NULL; for MySQL and MariaDB."""
    likes = sa.func.ln(sa.func.coalesce(n_likes, 0) + 1)
    greater = sa.func.greatest(sa.func.coalesce(given, 0.0), likes / (likes + _HALF_WAY))
    return sa.func.least(greater, 1.0, type_=sa.Double)
