"""Fits the models of ``core.collaborative``, with scipy, which the serving image does not have."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.linalg.lapack
import scipy.sparse as sp

from core.collaborative import Doubles, FactorBlock, Floats, Likes, LinearBlock, Ridge, principal_axes, solve_rows

Matrix: TypeAlias = sp.csr_array

DENSE_LIMIT = 20_000
_N_POWER_ITERATIONS = 3
_OVERSAMPLING = 16
_FLATTENING = 0.15
_COLUMNS_AT_ONCE = 2048
_MAX_LISTENERS = 3000
_SMALL = 1e-6


@dataclass(frozen=True, slots=True)
class LinearConfig:
    """EDLAE's (Steck, "Autoencoders that don't overfit towards the identity", 2020), and the rank it is cut to.

    ``dropout`` is p / (1 - p) for the dropout rate p; ``content_weight`` is what content rows weigh beside users.
    """

    ridge: float = 70.0
    dropout: float = 1.0
    content_weight: float = 7.0
    rank: int = 192


@dataclass(frozen=True, slots=True)
class FactorConfig:
    """iALS (Rendle et al. 2022): size, penalties, and how often each side is solved for.

    ``content_weight`` is the confidence in a feature of content, beside 1 in a like, each feature being one more user.
    """

    dim: int
    ridge: Ridge
    n_iterations: int = 8
    content_weight: float = 0.0


def likes_of(matrix: Matrix) -> Likes:
    """The rows of a sparse matrix of positive weights."""
    return Likes(
        matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data.astype(np.float32, copy=False)
    )


def content_rows(counts: Matrix, min_items: int = 3) -> Matrix:
    """Content as unit rows, (n_items, n_features): log(1 + count) times inverse document frequency.

    Features that fewer than ``min_items`` items have tell nothing about others, and are left out.
    """
    n_with = np.asarray((counts > 0).sum(axis=0)).ravel()
    kept = np.flatnonzero(n_with >= min_items)
    rows = sp.csr_array(counts[:, kept], dtype=np.float32)
    rows.data = np.log1p(rows.data)
    rows = rows @ sp.diags_array(np.log(max(counts.shape[0], 1) / n_with[kept]).astype(np.float32))
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    return sp.csr_array(sp.diags_array((1 / np.where(lengths > 0, lengths, 1)).astype(np.float32)) @ rows)


def fit_factors(
    interactions: Matrix, config: FactorConfig, *, content: Matrix | None = None, seed: int = 0
) -> FactorBlock:
    """Alternating least squares over (n_users, n_items) of positive weights; the same seed gives the same block."""
    rows = with_content(interactions, content, config.content_weight)
    n_items = rows.shape[1]
    chance = np.random.default_rng(seed)
    items = chance.normal(0, 0.1 / np.sqrt(config.dim), (n_items, config.dim)).astype(np.float32)
    by_user, by_item = likes_of(rows), likes_of(rows.T.tocsr())
    for _ in range(config.n_iterations):
        items, spectrum, _ = principal_axes(items)
        users, spectrum, _ = principal_axes(solve_rows(by_user, items, spectrum, config.ridge))
        items = solve_rows(by_item, users, spectrum, config.ridge)
    items, spectrum, _ = principal_axes(items)
    return FactorBlock(items, spectrum, config.ridge)


def fit_linear(
    interactions: Matrix,
    content: Matrix | None,
    config: LinearConfig,
    *,
    dense_limit: int = DENSE_LIMIT,
    seed: int = 0,
) -> LinearBlock:
    """EDLAE over users and, as further rows, content; ``content`` is (n_items, n_features).

    It is cut to the directions in which the scores of listeners vary most (reduced-rank regression), not to those of
    the item-to-item matrix itself, which needs about twice the rank for the same quality. Scores of items that many
    have vary most, and are weighed down a little lest they take all the directions. Where both rows and items exceed
    ``dense_limit``, only the most popular items are modelled.
    """
    rows = with_content(interactions, content, config.content_weight)
    if min(rows.shape) > dense_limit:
        return _fit_head(rows, interactions.shape[0], config, dense_limit, seed)
    return _fit_regression(rows, interactions.shape[0], config, seed)


def _fit_regression(rows: Matrix, n_users: int, config: LinearConfig, seed: int) -> LinearBlock:
    regression = LinearRegression.of(rows, config)
    users = np.flatnonzero(np.diff(rows.indptr[: n_users + 1]))
    if len(users) > _MAX_LISTENERS:
        users = np.sort(np.random.default_rng(seed).choice(users, _MAX_LISTENERS, replace=False))
    counts = np.bincount(rows[:n_users].indices, minlength=rows.shape[1])
    emphasis = (np.maximum(counts, 1.0) ** -_FLATTENING).astype(np.float32)
    axes = _leading(regression.scores(rows[users].toarray()) * emphasis, config.rank, seed)
    return LinearBlock.of(axes / emphasis[:, None], regression.inputs(axes * emphasis[:, None]))


def with_content(interactions: Matrix, content: Matrix | None, weight: float) -> Matrix:
    """Users' rows and, below them, one row for each feature of the content."""
    if content is None or not content.nnz or weight <= 0:
        return sp.csr_array(interactions, dtype=np.float32)
    return sp.csr_array(sp.vstack([interactions, content.T * weight]), dtype=np.float32)


def _fit_head(rows: Matrix, n_users: int, config: LinearConfig, n_head: int, seed: int) -> LinearBlock:
    columns = rows.tocsc()
    head = np.sort(np.argsort(-np.diff(columns.indptr), kind="stable")[:n_head])
    fitted = _fit_regression(sp.csr_array(columns[:, head]), n_users, config, seed)
    vectors = np.zeros((rows.shape[1], fitted.vectors.shape[1]), np.float32)
    inputs, scales = np.zeros(vectors.shape, np.int8), np.zeros(len(vectors), np.float32)
    vectors[head], inputs[head], scales[head] = fitted.vectors, fitted.inputs, fitted.scales
    return LinearBlock(vectors, inputs, scales)


def _leading(matrix: Floats, rank: int, seed: int) -> Floats:
    """The leading right singular vectors, (n_columns, rank), by randomised subspace iteration.

    Halko, Martinsson and Tropp, "Finding structure with randomness", 2011, algorithm 4.4.
    """
    size = min(rank + _OVERSAMPLING, *matrix.shape)
    basis = np.random.default_rng(seed).normal(size=(matrix.shape[1], size)).astype(np.float32)
    for _ in range(_N_POWER_ITERATIONS):
        basis = _orthonormal(matrix.T @ _orthonormal(matrix @ basis))
    _, _, turned = np.linalg.svd(matrix @ basis, full_matrices=False)
    return np.asarray(basis @ turned[: min(rank, size)].T)


def _orthonormal(vectors: Floats) -> Floats:
    return np.asarray(scipy.linalg.qr(vectors, mode="economic", overwrite_a=True, check_finite=False)[0])


@dataclass(frozen=True, slots=True)
class LinearRegression:
    """EDLAE in full, as an operator on rows of likes.

    With rows R, L = ridge + dropout * diag(R'R) and A = R L^-1/2 the item-to-item matrix is, off its diagonal,
    L^-1/2 H L^-1/2 / diag(C) with the hat matrix H = A'(AA' + 1)^-1 A = 1 - (A'A + 1)^-1 and C the inverse of R'R + L.
    H is applied through the dense inverse on the smaller side; ``leverages`` is its diagonal, ``scales`` L^-1/2.
    """

    rows: Matrix
    inverse: Floats
    leverages: Doubles
    scales: Floats
    out_scales: Floats

    @classmethod
    def of(cls, rows: Matrix, config: LinearConfig) -> "LinearRegression":
        """Of positive rows, users' and content's alike; the cost is the cube of the smaller side."""
        scales = 1.0 / np.sqrt(config.ridge + config.dropout * _column_sums(rows.multiply(rows)))
        scaled = sp.csr_array(rows @ sp.diags_array(scales), dtype=np.float32)
        by_rows = scaled.shape[0] <= scaled.shape[1]
        inverse = _inverse(_gram_plus_one(scaled if by_rows else scaled.T.tocsr()))
        leverages = _leverages(scaled, inverse) if by_rows else 1.0 - np.diag(inverse).astype(np.float64)
        out_scales = 1.0 / (np.maximum(1.0 - leverages, _SMALL) * scales)
        return cls(scaled, inverse, leverages, scales.astype(np.float32), out_scales.astype(np.float32))

    def scores(self, likes: Floats) -> Floats:
        """The scores of dense rows of likes, (n, n_items); a row's own likes are scored by the others alone."""
        return self._off_diagonal(likes * self.scales) * self.out_scales

    def inputs(self, vectors: Floats) -> Floats:
        """The item-to-item matrix times ``vectors`` (n_items, dim)."""
        return (self._off_diagonal((vectors * self.out_scales[:, None]).T) * self.scales).T.copy()

    def _off_diagonal(self, rows: Floats) -> Floats:
        own = rows * self.leverages.astype(np.float32)
        if len(self.inverse) == rows.shape[1] != self.rows.shape[0]:
            return np.asarray(rows - rows @ self.inverse - own)
        return np.asarray(((self.rows @ rows.T).T @ self.inverse) @ self.rows - own)


def _leverages(matrix: Matrix, inverse: Floats) -> Doubles:
    """The diagonal of ``A' inverse A``, shape (n_columns,)."""
    columns = matrix.tocsc()
    leverages = np.zeros(matrix.shape[1])
    for start in range(0, matrix.shape[1], _COLUMNS_AT_ONCE):
        part = columns[:, start : start + _COLUMNS_AT_ONCE]
        leverages[start : start + part.shape[1]] = _column_sums(part.multiply((part.T @ inverse).T))
    return leverages


def _gram_plus_one(matrix: Matrix) -> npt.NDArray[np.float32]:
    """``AA' + 1`` dense, in Fortran's order so that LAPACK works in place."""
    n_rows: int = matrix.shape[0]
    gram: Floats = np.zeros((n_rows, n_rows), np.float32, order="F")
    transposed = matrix.T.tocsr()
    for start in range(0, matrix.shape[0], _COLUMNS_AT_ONCE):
        part = slice(start, start + _COLUMNS_AT_ONCE)
        gram[part] = (matrix[part] @ transposed).toarray()
    gram[np.diag_indices_from(gram)] += 1
    return gram


def _cholesky(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    factor, failed = scipy.linalg.lapack.spotrf(matrix, lower=1, clean=1, overwrite_a=1)
    if failed:
        raise np.linalg.LinAlgError(f"not positive definite at {failed}")
    return np.asarray(factor)


def _inverse(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    inverse, _ = scipy.linalg.lapack.spotri(_cholesky(matrix), lower=1, overwrite_c=1)
    for start in range(0, len(inverse), _COLUMNS_AT_ONCE):
        stop = start + _COLUMNS_AT_ONCE
        inverse[start:stop, stop:] = inverse[stop:, start:stop].T
        corner = inverse[start:stop, start:stop]
        inverse[start:stop, start:stop] = np.tril(corner) + np.tril(corner, -1).T
    return np.asarray(inverse)


def _column_sums(matrix: Matrix) -> Doubles:
    return np.asarray(matrix.sum(axis=0), np.float64).ravel()
