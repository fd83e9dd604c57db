"""Vectors as signs that a database can compare: 256 bits each, and for a query how much each of them counts.

Signs tell little where all vectors lean to one side or some dimensions carry all: so the mean is taken off, and the
rest turned until the signs of its coordinates lose least (iterative quantisation: Gong and Lazebnik, "Iterative
Quantization", CVPR 2011). Where there are fewer dimensions than signs, they are turned in several ways. A query keeps
more than its signs: where it is near zero a different sign says nothing, where it is far from it all the more.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from core.ports.arrays import Floats
from services.schema import N_CODES

Codes = npt.NDArray[np.uint64]

MAX_TRAINING = 8192
"""More vectors than this teach a coder nothing new."""

_N_SIGNS = 64 * N_CODES
_N_ROUNDS = 20
_STORED = np.dtype("<f4")
# A coordinate as far from zero as they are on average counts 1.5 of at most 3.
_MEAN_WEIGHT, _MAX_WEIGHT = 1.5, 3


class Question(NamedTuple):
    """A query as numbers for SQL: its signs, and the bits of the weights 0 to 3 that their differences have."""

    signs: list[int]
    twos: list[int]
    ones: list[int]

    def distance(self, code: Codes) -> int:
        """What the database reckons for one item, ``code`` uint64 (4,): the sum of the weights where signs differ."""
        differing = [int(word) ^ sign for word, sign in zip(code, self.signs, strict=True)]
        twos = sum((word & mask).bit_count() for word, mask in zip(differing, self.twos, strict=True))
        return 2 * twos + sum((word & mask).bit_count() for word, mask in zip(differing, self.ones, strict=True))


class SignCoder:
    """Makes codes of vectors of one embedder: ``mean`` float32 (dim,), ``turns`` float32 (dim, 256)."""

    def __init__(self, mean: Floats, turns: Floats) -> None:
        self._mean, self._turns = mean, turns

    @classmethod
    def fit(cls, vectors: Floats, dim: int, seed: int = 0) -> "SignCoder":
        """Learn from ``vectors``, float32 (n, dim), of which there may be none; the same ones give the same coder."""
        mean: Floats = vectors.mean(axis=0, dtype=np.float32) if len(vectors) else np.zeros(dim, dtype=np.float32)
        around = vectors.reshape(-1, dim) - mean
        generator = np.random.default_rng(seed)
        turns: list[Floats] = []
        # Its matrices are small: more threads only wait for each other.
        with threadpool_limits(1, user_api="blas"):
            while (missing := _N_SIGNS - sum(turn.shape[1] for turn in turns)) > 0:
                turns.append(_turn(around, min(missing, dim), generator))
        return cls(mean, np.concatenate(turns, axis=1))

    @classmethod
    def read(cls, stored: bytes) -> "SignCoder":
        """What ``write`` wrote."""
        numbers = np.frombuffer(stored, dtype=_STORED).astype(np.float32).reshape(1 + _N_SIGNS, -1)
        return cls(numbers[0], np.ascontiguousarray(numbers[1:].T))

    def write(self) -> bytes:
        """The coder as bytes, 1,028 for each dimension."""
        return np.concatenate([self._mean[None], self._turns.T]).astype(_STORED).tobytes()

    def codes(self, vectors: Floats) -> Codes:
        """uint64 (n, 4): the signs of ``vectors``, float32 (n, dim)."""
        return _packed(self._coordinates(vectors) >= 0)

    def question(self, unit: Floats) -> Question:
        """``unit``, float32 (dim,), as the database is asked for what is near it."""
        coordinates = self._coordinates(unit[None])
        sizes = np.abs(coordinates)
        scale = _MEAN_WEIGHT / max(float(np.sqrt(np.mean(sizes**2))), 1e-12)
        weights = np.clip(np.round(sizes * scale), 0, _MAX_WEIGHT).astype(np.uint8)
        words = (_packed(bits)[0].tolist() for bits in (coordinates >= 0, weights & 2 > 0, weights & 1 > 0))
        return Question(*words)

    def _coordinates(self, vectors: Floats) -> Floats:
        around: Floats = vectors - self._mean
        return np.asarray(around @ self._turns, dtype=np.float32)


def _turn(around: Floats, n_signs: int, generator: np.random.Generator) -> Floats:
    """The directions, float32 (dim, n_signs), along which the signs of ``around`` lose least."""
    main = _main_directions(around, n_signs)
    coordinates = around @ main
    rotation: Floats = np.linalg.qr(generator.normal(size=(n_signs, n_signs)))[0].astype(np.float32)
    for _ in range(_N_ROUNDS if len(around) else 0):
        signs = np.where(coordinates @ rotation >= 0, np.float32(1), np.float32(-1))
        left, _, right = np.linalg.svd(coordinates.T @ signs)
        rotation = (left @ right).astype(np.float32)
    turn: Floats = (main @ rotation).astype(np.float32)
    return turn


def _main_directions(around: Floats, n: int) -> Floats:
    dim = around.shape[1]
    if n == dim:
        return np.eye(dim, dtype=np.float32)
    largest_last: Floats = np.linalg.eigh(around.T @ around)[1].astype(np.float32)
    return largest_last[:, ::-1][:, :n]


def _packed(bits: npt.NDArray[np.bool_]) -> Codes:
    words: Codes = np.packbits(bits, axis=1, bitorder="little").view("<u8").astype(np.uint64)
    return words
