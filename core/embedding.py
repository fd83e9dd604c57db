"""The embedder that needs no download and no fitting, and the hash that says whether an item must be embedded anew.

A vector is three blocks side by side, each times its weight, and all together of unit length:

- *numbers*: each numeric feature is a point on an arc, ``(cos(w u), sin(w u))`` of its scaled value ``u``, so that the
  inner product of two items is the mean of ``cos(w (u - u'))`` over their features: near 1 - (w d)^2 / 2, a Gaussian
  kernel's shape, by Fourier features (Rahimi and Recht, "Random features for large-scale kernel machines", 2007) with
  one chosen frequency in place of random ones, which leaves no sampling noise in so few dimensions. Their mean over a
  standard normal ``u`` is subtracted, so that items with nothing in common have a cosine near 0.
- *tags*: genres, moods and language, hashed.
- *text*: words and character n-grams of titles and creator, hashed into one space, so that "feat. X" meets X.

Hashing is a sparse sign projection (Weinberger et al., "Feature hashing for large scale multitask learning", 2009; with
several non-zeros a feature: Kane and Nelson, "Sparser Johnson-Lindenstrauss transforms", 2014): inner products are kept
in expectation, with a noise of about 1 / sqrt(dimensions of the block). Nothing depends on other items, so that a new
item costs one vector and moves no other.
"""

import asyncio
import json
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from core.ports import Floats
from core.text_features import Features, hash_of, mixed, ngram_features, token_features, words
from models.catalogue import Item

Doubles = npt.NDArray[np.float64]

_VERSION = 1
_MIN_DIM, _MAX_DIM = 64, 256
_CHUNK = 512
_HASH_BYTES = 16

# Weights of inner products; chosen on a sample of songs with the artist withheld, not to the last digit.
_NUMBERS_WEIGHT, _TAGS_WEIGHT, _TITLE_WEIGHT, _CREATOR_WEIGHT = 2.0, 0.2, 0.4, 0.4
_FREQUENCY = 0.5
_MEAN_COSINE = math.exp(-(_FREQUENCY**2) / 2)
_N_NONZERO = 8


@dataclass(frozen=True, slots=True)
class _Scale:
    """How a feature's raw values become numbers of mean about 0 and deviation about 1."""

    centre: float
    spread: float
    log_offset: float | None = None

    def __call__(self, values: Doubles) -> Doubles:
        if self.log_offset is not None:
            values = np.log(np.maximum(values, 0) + self.log_offset)
        return (values - self.centre) / self.spread


# Spotify's audio features, in their documented ranges; skewed ones on a logarithmic scale. Their order is that of
# the planes that they get, so that none shares one while there are enough.
_SCALES = {
    "danceability": _Scale(0.65, 0.16),
    "energy": _Scale(0.7, 0.2),
    "valence": _Scale(0.5, 0.24),
    "tempo": _Scale(4.8, 0.23, log_offset=1.0),
    "acousticness": _Scale(-2.2, 1.5, log_offset=0.01),
    "instrumentalness": _Scale(-7.5, 2.8, log_offset=1e-4),
    "speechiness": _Scale(-2.6, 0.7, log_offset=0.01),
    "loudness": _Scale(-7.0, 3.2),
    "duration_ms": _Scale(12.28, 0.28, log_offset=1.0),
    "liveness": _Scale(-1.9, 0.65, log_offset=0.02),
}
_PLANES = {name: plane for plane, name in enumerate(_SCALES)}
_BOUND = 3.0
# Beyond this a number is no measurement; scaling it could overflow.
_HUGE = 1e12


def _scale_of_unknown(values: Doubles) -> Doubles:
    """Orders of magnitude, where nothing is known of a feature: 0, 1, 10 and 100 become 0, 0.6, 2.1 and 3.7."""
    return np.asarray(np.arcsinh(values) * 0.7)


class HashingEmbedder:
    """``core.ports.Embedder`` by hashing: deterministic, the same in every process, for any catalogue profile.

    ``text_columns`` names those of an item's ``columns`` that are text to read besides titles and creator.
    """

    def __init__(self, dim: int = 128, *, text_columns: Collection[str] = ()) -> None:
        if not _MIN_DIM <= dim <= _MAX_DIM:
            raise ValueError(f"dim must be from {_MIN_DIM} to {_MAX_DIM}, got {dim}")
        self._dim = dim
        self._text_columns = tuple(text_columns)
        self._n_planes = dim // 8
        self._n_tags = dim * 3 // 16
        self._n_text = dim - 2 * self._n_planes - self._n_tags

    @property
    def name(self) -> str:
        """Kind, version and dimension."""
        return f"hashing-{_VERSION}-{self._dim}"

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._dim

    async def embed(self, items: Sequence[Item]) -> Floats:
        """Unit vectors, float32, shape (len(items), dim); the event loop runs on between chunks, in a thread's time."""
        chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
        vectors = [await asyncio.to_thread(self.embed_now, chunk) for chunk in chunks]
        return np.concatenate(vectors) if vectors else np.empty((0, self._dim), np.float32)

    async def embed_wish(self, text: str, item: Item) -> Floats:
        """See ``core.ports.WishEmbedder``: the vector of the item that would fulfil the wish."""
        return np.asarray(self.embed_now([item])[0], np.float32)

    def embed_now(self, items: Sequence[Item]) -> Floats:
        """What ``embed`` returns, computed in the calling thread."""
        vectors = np.hstack([self._numbers(items), self._tags(items), self._text(items)])
        return _unit(vectors).astype(np.float32)

    def _numbers(self, items: Sequence[Item]) -> Doubles:
        planes = np.zeros((2, len(items), self._n_planes))
        for name in sorted({name for item in items for name in item.features}):
            values = np.array([item.features.get(name, math.nan) for item in items], np.float64)
            cosines, sines = _on_arc(name, values)
            planes[:, :, _plane(name, self._n_planes)] += np.stack([cosines, sines])
        n_features = np.array([max(len(item.features), 1) for item in items])
        return np.hstack([planes[0], planes[1]]) * np.sqrt(_NUMBERS_WEIGHT / n_features)[:, None]

    def _tags(self, items: Sequence[Item]) -> Doubles:
        features = token_features([list(_tags_of(item)) for item in items])
        return math.sqrt(_TAGS_WEIGHT) * _unit(_projected(features, len(items), self._n_tags))

    def _text(self, items: Sequence[Item]) -> Doubles:
        titles = [_words_of([*item.titles.values(), *_texts(item, self._text_columns)]) for item in items]
        creators = [_words_of([item.creator, item.creator_local]) for item in items]
        title_part = math.sqrt(_TITLE_WEIGHT) * self._text_block(titles)
        return title_part + math.sqrt(_CREATOR_WEIGHT) * self._text_block(creators)

    def _text_block(self, texts: Sequence[list[str]]) -> Doubles:
        return _unit(_projected(ngram_features(texts), len(texts), self._n_text))


def content_hash(item: Item, text_columns: Collection[str] = ()) -> bytes:
    """16 bytes that change whenever anything does that an embedder reads of ``item``: no popularity, no numbers."""
    content = [
        sorted(item.titles.items()),
        [item.creator, item.creator_local, item.language],
        [item.genres, item.moods],
        sorted(item.features.items()),
        _texts(item, text_columns),
    ]
    return blake2b(json.dumps(content).encode(), digest_size=_HASH_BYTES).digest()


def _texts(item: Item, columns: Iterable[str]) -> list[str]:
    return [text for column in columns if isinstance(text := item.columns.get(column), str)]


def _words_of(texts: Iterable[str | None]) -> list[str]:
    return [word for text in texts if text for word in words(text)]


def _tags_of(item: Item) -> Iterable[str]:
    """Whole tags and their words, so that "indie rock" is near "rock"."""
    for kind, tags in (("genre", item.genres), ("mood", item.moods), ("language", (item.language or "",))):
        for tag in tags:
            parts = words(tag)
            yield from (f"{kind}:{part}" for part in dict.fromkeys([" ".join(parts), *parts]) if part)


def _plane(name: str, n_planes: int) -> int:
    return _PLANES.get(name, hash_of(name)) % n_planes


def _on_arc(name: str, values: Doubles) -> tuple[Doubles, Doubles]:
    """Centred cosines and sines of the scaled values, both 0 where there is no finite value."""
    known = np.isfinite(values)
    scale: Callable[[Doubles], Doubles] = _SCALES.get(name, _scale_of_unknown)
    scaled = scale(np.clip(np.where(known, values, 0.0), -_HUGE, _HUGE))
    # Bounded, so that an outlier stays an outlier instead of coming round the circle to the other end.
    angles = _FREQUENCY * _BOUND * np.tanh(scaled / _BOUND)
    return np.where(known, np.cos(angles) - _MEAN_COSINE, 0.0), np.where(known, np.sin(angles), 0.0)


def _projected(features: Features, n_rows: int, n_dims: int) -> Doubles:
    """The features' sparse sign projection, shape (n_rows, n_dims)."""
    sums = np.zeros(n_rows * n_dims)
    for draw in range(_N_NONZERO):
        bits = mixed(features.hashes + np.uint64(draw))
        cells = features.rows * n_dims + ((bits >> np.uint64(1)) % np.uint64(n_dims)).astype(np.int64)
        signs = 1.0 - 2.0 * (bits & np.uint64(1)).astype(np.float64)
        sums += np.bincount(cells, signs * features.weights, minlength=len(sums))
    return sums.reshape(n_rows, n_dims)


def _unit(vectors: Doubles) -> Doubles:
    """Rows of length one; a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)
