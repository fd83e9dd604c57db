"""Scores items for a list of liked items: a listener who came a minute ago is served like one whom the fit knew.

Every model here gives an item a vector and folds a list of likes into a vector of the same space; a score is their
inner product. So several models side by side are again one: their vectors are concatenated, and the z-scores that put
them on one scale come from moments of the item vectors (mean and covariance), with no need to score all items first.
What is served is one vector an item, never items x items, and any index for inner products can search it.

Only numpy is needed; ``training.collaborative_fit`` makes the models.
"""

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from core.errors import ConfigurationError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.int8]
Arrays = Mapping[str, npt.NDArray[np.generic]]

_TINY = 1e-12
_MAX_GATHERED = 1 << 22
_MAX_SCORES = 1 << 24
_FORMAT = 1
_LARGEST = np.float32(127)


@dataclass(frozen=True, slots=True)
class Likes:
    """Lists of liked items as compressed rows: row ``i`` is ``items[starts[i]:starts[i + 1]]``.

    ``starts`` int64 (n_rows + 1,), ``items`` int64 (n_likes,), the same item at most once a row; ``weights`` float32
    (n_likes,), above 0, 1 being an ordinary like.
    """

    starts: Indices
    items: Indices
    weights: Floats

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> "Likes":
        """Likes of weight 1; an item that a row repeats counts once."""
        distinct = [list(dict.fromkeys(row)) for row in rows]
        starts = np.cumsum([0, *map(len, distinct)], dtype=np.int64)
        items = np.array([item for row in distinct for item in row], np.int64)
        return cls(starts, items, np.ones(len(items), np.float32))

    @property
    def n_rows(self) -> int:
        """How many lists there are."""
        return len(self.starts) - 1

    @property
    def counts(self) -> Indices:
        """Length of every list."""
        return np.diff(self.starts)

    def rows(self, start: int, stop: int) -> "Likes":
        """The lists from ``start`` to before ``stop``."""
        first, last = self.starts[start], self.starts[min(stop, self.n_rows)]
        starts = self.starts[start : stop + 1] - first
        return Likes(starts, self.items[first:last], self.weights[first:last])

    def owners(self) -> Indices:
        """The row that each like belongs to."""
        return np.repeat(np.arange(self.n_rows), self.counts)

    def padded(self, rows: Indices, width: int) -> tuple[Indices, Floats]:
        """Items and weights of the chosen rows, each of shape (len(rows), width), filled up with weight 0."""
        places = self.starts[rows][:, None] + np.arange(width)
        inside = np.arange(width) < self.counts[rows][:, None]
        places = np.where(inside, places, 0)
        return self.items[places], np.where(inside, self.weights[places], np.float32(0))


class Block(Protocol):
    """One model: a vector for every item, and a way to fold likes into the same space."""

    @property
    def vectors(self) -> Floats:
        """Shape (n_items, dim)."""

    def fold_in(self, likes: Likes) -> Floats:
        """The listeners' vectors, shape (likes.n_rows, dim); zero where a list is empty."""

    def over(self, vectors: Floats) -> "Block":
        """The same block with ``vectors``, equal to its own, in another place of memory."""


@dataclass(frozen=True, slots=True)
class LinearBlock:
    """An item-to-item regression ``inputs @ vectors.T``: a listener is the weighted sum of the inputs liked.

    ``vectors`` are what items are as candidates. What an item says as a like is ``scales`` (n_items,) times ``inputs``
    int8 (n_items, dim): only rows of what is liked are ever multiplied, and the rounding errors of a list even out.
    """

    vectors: Floats
    inputs: Bytes
    scales: Floats

    @classmethod
    def of(cls, vectors: Floats, inputs: Floats) -> "LinearBlock":
        """Rounds ``inputs``, both of shape (n_items, dim)."""
        scales = (np.abs(inputs).max(axis=1, initial=0.0) / _LARGEST).astype(np.float32)
        quotients = inputs / np.maximum(scales, np.finfo(np.float32).tiny)[:, None]
        return cls(vectors, np.rint(quotients).clip(-_LARGEST, _LARGEST).astype(np.int8), scales)

    def over(self, vectors: Floats) -> "LinearBlock":
        """The same with ``vectors``."""
        return replace(self, vectors=vectors)

    def fold_in(self, likes: Likes) -> Floats:
        """The sum over a list of ``weight * input``."""
        listeners = np.zeros((likes.n_rows, self.vectors.shape[1]), np.float32)
        step = max(_MAX_GATHERED // max(self.vectors.shape[1], 1), 1)
        owners = likes.owners()
        for start in range(0, len(likes.items), step):
            part = slice(start, start + step)
            rows = owners[part]
            items = likes.items[part]
            gathered = self.inputs[items] * (self.scales[items] * likes.weights[part])[:, None]
            firsts = np.flatnonzero(np.diff(rows, prepend=-1))
            listeners[rows[firsts]] += np.add.reduceat(gathered, firsts, axis=0)
        return listeners


@dataclass(frozen=True, slots=True)
class Ridge:
    """How least squares treat what was not observed (Rendle et al., "Revisiting the performance of iALS", 2022).

    Every unobserved pair has the weight ``unobserved`` and the value 0; a row with n likes among N columns is held to
    0 by ``strength * (n + unobserved * N) ** exponent``.
    """

    unobserved: float
    strength: float
    exponent: float = 1.0

    def penalties(self, counts: Indices, n_columns: int) -> Doubles:
        """The penalty of each row."""
        return np.asarray(self.strength * (counts + self.unobserved * n_columns) ** self.exponent, np.float64)


@dataclass(frozen=True, slots=True)
class FactorBlock:
    """A matrix factorisation whose listeners are solved for when they ask.

    ``vectors`` stand along the principal axes of their own Gram matrix; ``spectrum`` float64 (dim,) is its diagonal.
    """

    vectors: Floats
    spectrum: Doubles
    ridge: Ridge

    def over(self, vectors: Floats) -> "FactorBlock":
        """The same with ``vectors``."""
        return replace(self, vectors=vectors)

    def fold_in(self, likes: Likes) -> Floats:
        """Least squares, exactly, list by list."""
        return solve_rows(likes, self.vectors, self.spectrum, self.ridge)


def principal_axes(vectors: Floats) -> tuple[Floats, Doubles, Doubles]:
    """``vectors`` turned so that their Gram matrix is diagonal, that diagonal, and the axes (old to new)."""
    spectrum, axes = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)
    return vectors @ axes.astype(np.float32), np.maximum(spectrum, 0.0), axes


def solve_rows(likes: Likes, vectors: Floats, spectrum: Doubles, ridge: Ridge) -> Floats:
    """For each list the x that minimises ``sum w (1 - v.x)^2 + a |V x|^2 + penalty |x|^2``, shape (n_rows, dim).

    The Gram matrix of ``vectors`` must be diagonal. Then a list shorter than ``dim`` costs a system of its own length
    (push-through identity), and lists of like length are solved together, padded with likes of weight 0.
    """
    dim = vectors.shape[1]
    solved = np.zeros((likes.n_rows, dim), np.float32)
    penalties = ridge.penalties(likes.counts, len(vectors))
    for rows, width in _similar_lengths(likes.counts, dim):
        diagonal = (ridge.unobserved * spectrum + penalties[rows, None]).astype(np.float32)
        items, weights = likes.padded(rows, width)
        roots = np.sqrt(weights)
        solved[rows] = _solve(vectors[items] * roots[:, :, None], roots, diagonal)
    return solved


def _solve(design: Floats, targets: Floats, diagonal: Floats) -> Floats:
    """``(B'B + D)^-1 B't`` for stacks of B (n, width, dim), t (n, width) and D (n, dim)."""
    _, width, dim = design.shape
    if width < dim:
        scaled = design / diagonal[:, None, :]
        small = scaled @ design.transpose(0, 2, 1) + np.eye(width, dtype=np.float32)
        return np.asarray((np.linalg.solve(small, targets[:, :, None]) * scaled).sum(1))
    full = design.transpose(0, 2, 1) @ design
    full[:, np.arange(dim), np.arange(dim)] += diagonal
    return np.asarray(np.linalg.solve(full, (design * targets[:, :, None]).sum(1)[:, :, None])[:, :, 0])


def _similar_lengths(counts: Indices, dim: int) -> Iterator[tuple[Indices, int]]:
    """Rows whose lengths round up to the same width, in portions that fit in memory; empty rows are left out."""
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0]
    place = 0
    while place < len(order):
        width = _rounded_up(int(counts[order[place]]))
        stop = min(int(np.searchsorted(counts[order], width, "right")), place + max(_MAX_GATHERED // (width * dim), 1))
        yield order[place:stop], width
        place = stop


def _rounded_up(length: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24 ...: at most half as long again."""
    power = 1 << (length - 1).bit_length()
    return power * 3 // 4 if power >= 4 and length <= power * 3 // 4 else power  # noqa: PLR2004 - below 4 there is none


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean (dim,) and covariance (dim, dim) of item vectors: mean and deviation of any listener's scores."""

    mean: Doubles
    covariance: Doubles

    @classmethod
    def of(cls, vectors: Floats) -> "Moments":
        """Of all items alike."""
        mean = vectors.mean(0, dtype=np.float64)
        gram = (vectors.T @ vectors).astype(np.float64) / max(len(vectors), 1)
        return cls(mean, gram - np.outer(mean, mean))

    def deviations(self, listeners: Floats) -> Doubles:
        """The standard deviation of each listener's scores, (n_listeners,)."""
        variances = np.einsum("nd,nd->n", listeners @ self.covariance, listeners)
        return np.asarray(np.sqrt(np.maximum(variances, 0.0)), np.float64)


class CollaborativeModel:
    """Blocks fused by the weighted sum of their z-scores, with popularity for those of whom little is known.

    ``popularity`` float (n_items,), any scale, decides ties and, for an empty list, everything; it counts as
    ``popularity_weight / (n likes + 1)`` of a z-score. ``moments`` are those of the blocks' vectors, where known.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        weights: Sequence[float],
        popularity: Doubles,
        *,
        popularity_weight: float = 1.0,
        moments: Sequence["Moments"] | None = None,
    ) -> None:
        if len(blocks) != len(weights):
            raise ValueError(f"{len(blocks)} blocks need as many weights, got {len(weights)}")
        self._weights = tuple(weights)
        self._popularity = popularity
        self._popularity_weight = max(popularity_weight, _TINY)
        self._moments = list(moments or (Moments.of(block.vectors) for block in blocks))
        common = np.log1p(np.maximum(popularity, 0.0))
        column = ((common - common.mean()) / (common.std() + _TINY)).astype(np.float32)[:, None]
        self._vectors = np.hstack([*(block.vectors for block in blocks), column])
        # views, so that every vector is in memory once
        ends = np.cumsum([block.vectors.shape[1] for block in blocks]).tolist()
        self._blocks = tuple(
            block.over(self._vectors[:, end - block.vectors.shape[1] : end])
            for block, end in zip(blocks, ends, strict=True)
        )

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The models that are fused."""
        return self._blocks

    @property
    def item_vectors(self) -> Floats:
        """What an index for inner products would hold, shape (n_items, dim)."""
        return self._vectors

    @property
    def nbytes(self) -> int:
        """What the model takes in memory."""
        inputs = sum(
            block.inputs.nbytes + block.scales.nbytes for block in self._blocks if isinstance(block, LinearBlock)
        )
        moments = sum(moments.covariance.nbytes + moments.mean.nbytes for moments in self._moments)
        return self._vectors.nbytes + inputs + moments + self._popularity.nbytes

    @property
    def popularity(self) -> Doubles:
        """As given, shape (n_items,)."""
        return self._popularity

    def listener_vectors(self, likes: Likes) -> Floats:
        """Shape (likes.n_rows, dim): ``item_vectors @ vector`` ranks the items, whatever the rest of the batch is."""
        parts = []
        for block, weight, moments in zip(self._blocks, self._weights, self._moments, strict=True):
            folded = block.fold_in(likes)
            parts.append(
                (folded * (weight / np.maximum(moments.deviations(folded), _TINY))[:, None]).astype(np.float32)
            )
        trust_in_popularity = self._popularity_weight / (likes.counts + 1.0)
        return np.hstack([*parts, trust_in_popularity.astype(np.float32)[:, None]])

    def to_bytes(self) -> bytes:
        """Everything, as ``.npz`` without pickle; vectors at 16 bits, which loses nothing of ``rounded`` blocks."""
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "format": np.array(_FORMAT),
            "weights": np.array(self._weights),
            "popularity": self._popularity,
            "popularity_weight": np.array(self._popularity_weight),
        }
        for place, (block, moments) in enumerate(zip(self._blocks, self._moments, strict=True)):
            parts = {**as_arrays(block), "mean": moments.mean, "covariance": moments.covariance}
            arrays |= {f"{place}.{name}": array for name, array in parts.items()}
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, payload: bytes) -> "CollaborativeModel":
        """What ``to_bytes`` wrote; raises ``ConfigurationError`` where it is something else."""
        try:
            with np.load(io.BytesIO(payload), allow_pickle=False) as file:
                return cls._from_arrays(dict(file))
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigurationError(f"the collaborative model cannot be read ({error}); fit it again") from error

    @classmethod
    def _from_arrays(cls, arrays: Arrays) -> "CollaborativeModel":
        if int(arrays["format"]) != _FORMAT:
            raise ConfigurationError(
                f"the collaborative model is of format {arrays['format']}, not {_FORMAT}; fit it again"
            )
        weights = np.asarray(arrays["weights"], np.float64).tolist()
        parts = [_below(f"{place}.", arrays) for place in range(len(weights))]
        moments = [
            Moments(np.asarray(part["mean"], np.float64), np.asarray(part["covariance"], np.float64)) for part in parts
        ]
        popularity = np.asarray(arrays["popularity"], np.float64)
        trust = float(arrays["popularity_weight"])
        return cls([block_of(part) for part in parts], weights, popularity, popularity_weight=trust, moments=moments)

    def scores(self, likes: Likes) -> Floats:
        """Of every item, shape (likes.n_rows, n_items); what is liked has its score too."""
        return np.asarray(self.listener_vectors(likes) @ self._vectors.T)

    def top(self, likes: Likes, n: int) -> tuple[Indices, Floats]:
        """The ``n`` best items that are not liked already and their scores, both (likes.n_rows, at most n).

        Where a list leaves fewer than ``n`` items, the row ends with items of score -inf.
        """
        step = max(_MAX_SCORES // max(len(self._vectors), 1), 1)
        parts = []
        for start in range(0, likes.n_rows, step):
            part = likes.rows(start, start + step)
            parts.append(top_items(self.scores(part), part, self._popularity, n))
        if not parts:
            return np.empty((0, 0), np.int64), np.empty((0, 0), np.float32)
        return np.concatenate([items for items, _ in parts]), np.concatenate([scores for _, scores in parts])


def top_items(scores: Floats, likes: Likes, popularity: Doubles, n: int) -> tuple[Indices, Floats]:
    """The ``n`` best of each row without what is liked; equal scores in the order of popularity, then of the index."""
    scores = scores.copy()
    scores[likes.owners(), likes.items] = -np.inf
    n = min(n, scores.shape[1])
    if n == 0:
        return np.empty((len(scores), 0), np.int64), np.empty((len(scores), 0), np.float32)
    best = [_best(row, popularity, n) for row in scores]
    chosen = np.stack(best) if best else np.empty((0, n), np.int64)
    return chosen, np.take_along_axis(scores, chosen, axis=1)


def _best(row: Floats, popularity: Doubles, n: int) -> Indices:
    cut = np.partition(row, len(row) - n)[len(row) - n]
    found = np.flatnonzero(row >= cut)
    return found[np.lexsort((found, -popularity[found], -row[found]))[:n]]


def _below(prefix: str, arrays: Arrays) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def rounded(block: Block) -> Block:
    """The block as it is when it comes back from a file, where its vectors have 16 bits."""
    return block_of(as_arrays(block))


def as_arrays(block: Block) -> Arrays:
    """A block as named arrays, for a file."""
    vectors, exponents = _halved(block.vectors)
    arrays: dict[str, npt.NDArray[np.generic]] = {"vectors": vectors, "exponents": exponents}
    match block:
        case LinearBlock():
            return {**arrays, "kind": np.array("linear"), "inputs": block.inputs, "scales": block.scales}
        case FactorBlock():
            ridge = np.array([block.ridge.unobserved, block.ridge.strength, block.ridge.exponent])
            return {**arrays, "kind": np.array("factors"), "spectrum": block.spectrum, "ridge": ridge}
    raise TypeError(f"no arrays are known for {type(block).__name__}")


def block_of(arrays: Arrays) -> Block:
    """What ``as_arrays`` took apart."""
    kind = str(arrays["kind"])
    halves, exponents = np.asarray(arrays["vectors"], np.float32), np.asarray(arrays["exponents"], np.int16)
    vectors = np.ldexp(halves, exponents).astype(np.float32)
    if kind == "linear":
        return LinearBlock(vectors, np.asarray(arrays["inputs"], np.int8), np.asarray(arrays["scales"], np.float32))
    if kind == "factors":
        unobserved, strength, exponent = np.asarray(arrays["ridge"], np.float64).tolist()
        return FactorBlock(vectors, np.asarray(arrays["spectrum"], np.float64), Ridge(unobserved, strength, exponent))
    raise ConfigurationError(f"the collaborative model has a block of unknown kind {kind!r}; fit it again")


def _halved(values: Floats) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int16]]:
    """At 16 bits, each column first brought near 1 by a power of two, so that small values keep their 11 bits."""
    largest = np.maximum(np.abs(values).max(axis=0, initial=0.0), np.finfo(np.float32).tiny)
    exponents = np.frexp(largest)[1].astype(np.int16)
    return np.ldexp(values, -exponents).astype(np.float16), exponents
