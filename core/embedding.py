"""The embedder that needs no download, and the hash that says whether an item must be embedded anew.

A vector is an *exact* part and a *coded* part side by side:

- *numbers*, exact: the normal score of each (``CatalogueStatistics``) is an angle on a half circle, and the item has
  cosine and sine of its multiples 1, 3 and 5, which weigh 1 / k. This is how the Fourier series of a triangle begins:
  the inner product of two items falls linearly with the distance of their scores, as an L1 kernel does, and every item
  has the same length (explicit feature maps: Rahimi and Recht, "Random features for large-scale kernel machines", 2007,
  with chosen frequencies in place of random ones).
- *the heaviest tokens* of the catalogue, tags or text, exact: a dimension each.
- *all other tokens*, coded: dense random signs, whose inner products are right up to a noise of 1 / sqrt(dimensions).
  A token of text weighs the more, the fewer items have it, and nothing where only one has.

Three things keep a few items from being near everything. The exact part is centred (Suzuki et al., "Centering
similarity measures to reduce hubs", 2013). The room that an item's code leaves is filled with *slack* until all items
are equally long: else unit length would make those with short titles the nearest of all. As slack must be there, it
says what it can, by random features: it is alike where titles have letters in common, and so a language, or where all
numbers are close at once (the Laplacian kernel of Rahimi and Recht); for the rest it is random signs of the item's own.
And one dimension more is the smaller, the nearer an item's nearest neighbours in a sample of the catalogue are: what
has many neighbours has to be nearer to anything than what has few (as in CSLS: Lample et al., "Word translation
without parallel data", 2018).
"""

import asyncio
import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt

from core.catalogue_statistics import BOUND, HARMONICS, CatalogueCount, CatalogueStatistics, Feature, waves
from core.item_tokens import Tokens, letter_pairs_of, texts_of, tokens_of
from core.ports.arrays import Floats
from core.text_features import Hashes, hash_of, mixed
from models.catalogue import Item

Doubles = npt.NDArray[np.float64]
_Scored = tuple[str, Feature, Doubles]
"""A feature's name, what is known of it, and the items' scores, NaN where one has no such number."""

_VERSION = 2
_MIN_DIM, _MAX_DIM = 64, 256
_CHUNK = 512
_HASH_BYTES = 16

# Chosen on songs with the artist withheld, not to the last digit. An L1 kernel falls by this for a score's difference
# of one; so many numbers count in full, and more share their weight.
_SLOPE, _N_FULL = 0.05, 10
# The square of the length that the code may have on average, and the least that it may have.
_CODE_SQUARE, _LEAST_SQUARE = 0.7, 0.05
# The shares of the dimensions that numbers and the heaviest tokens get at the most.
_NUMBERS_SHARE, _HEAVIEST_SHARE = 60 / 256, 16 / 256

# What slack is made of, by the square root of its share, and how fast the Laplacian kernel falls.
_LETTERS_IN_SLACK, _NUMBERS_IN_SLACK, _CHANCE_IN_SLACK, _LAPLACIAN = 0.5, 0.6, 0.62, 0.2
# The dimension that tells of crowds: what it is on average, what a crowd counts, how many neighbours are looked at, and
# from which cosine on one is the item itself.
_OPEN, _CROWDING, _N_NEIGHBOURS, _ITSELF = 0.3, 0.6, 20, 0.995

_WORD = np.uint64(0x9E3779B97F4A7C15)
# Of waves: one factor for each cosine and sine.
_AMPLITUDES: Final = np.repeat(math.sqrt(8 * _SLOPE * BOUND) / math.pi / HARMONICS, 2)


class HashingEmbedder:
    """``core.ports.Embedder`` by hashing: deterministic, the same in every process, for any catalogue profile.

    ``text_columns`` names those of an item's ``columns`` that are text to read besides titles and creator. Where no
    ``statistics`` are fitted plain ones stand in: then style is not read, and nothing is filled with slack.
    """

    def __init__(
        self, dim: int = 256, *, text_columns: Collection[str] = (), statistics: CatalogueStatistics | None = None
    ) -> None:
        if not _MIN_DIM <= dim <= _MAX_DIM:
            raise ValueError(f"dim must be from {_MIN_DIM} to {_MAX_DIM}, got {dim}")
        self._dim = dim
        self._text_columns = tuple(text_columns)
        self._statistics = statistics or CatalogueStatistics.plain()
        self._name = f"hashing-{_VERSION}-{dim}" + (
            f"-{self._statistics.version[:8]}" if self._statistics.is_fitted else ""
        )
        n_features = len(self._statistics.features)
        if not self._statistics.is_fitted:
            # Numbers that nobody declared share what room there is.
            n_features = max(n_features, _N_FULL)
        self._weight_of_one = min(1.0, _N_FULL / max(n_features, 1))
        n_pairs = int(dim * _NUMBERS_SHARE) // 2
        self._n_harmonics = min(max(n_pairs // max(n_features, 1), 1), len(HARMONICS))
        self._n_planes = min(n_features, n_pairs // self._n_harmonics)
        self._heaviest = _Columns(self._statistics, int(dim * _HEAVIEST_SHARE))
        self._n_content = dim - 1 if self._statistics.is_fitted else dim
        self._n_coded = self._n_content - 2 * self._n_harmonics * self._n_planes - self._heaviest.n
        self._mean_square = self._mean_square_of_exact() + self._heaviest.mean_square_of_coded_tags
        self._anchors = self._statistics.anchors.astype(np.float32)
        if not self.is_anchored:
            self._anchors = self._anchors[:0]
        self._usual_crowd = float(self._crowds(self._anchors).mean()) if len(self._anchors) else 0.0

    @property
    def name(self) -> str:
        """Kind, version, dimension, and of fitted statistics the beginning of their version."""
        return self._name

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._dim

    @property
    def statistics(self) -> CatalogueStatistics:
        """What it knows of the catalogue."""
        return self._statistics

    @property
    def is_anchored(self) -> bool:
        """Whether its statistics have a sample of items that was embedded with as many dimensions."""
        return bool(self._statistics.anchors.shape[1] == self._n_content)

    @classmethod
    def fitted(
        cls, counting: CatalogueCount, dim: int = 256, *, text_columns: Collection[str] = (), salt: int = 0
    ) -> "HashingEmbedder":
        """By the statistics of all that was counted; ``salt`` chooses among codes that are as good."""
        statistics = replace(counting.statistics(), salt=salt)
        content = cls(dim, text_columns=text_columns, statistics=statistics)._content(counting.sample())
        anchored = replace(statistics, anchors=content.astype(np.float16))
        return cls(dim, text_columns=text_columns, statistics=anchored)

    async def embed(self, items: Sequence[Item]) -> Floats:
        """Unit vectors, float32, shape (len(items), dim); the event loop runs on between chunks, in a thread's time."""
        chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
        vectors = [await asyncio.to_thread(self.embed_now, chunk) for chunk in chunks]
        return np.concatenate(vectors) if vectors else np.empty((0, self._dim), np.float32)

    async def embed_wish(self, text: str, item: Item) -> Floats:
        """See ``core.ports.WishEmbedder``: the vector of the item that would fulfil the wish.

        It has no slack, which is near nothing, and no style: nobody wishes for small letters.
        """
        tokens = tokens_of([item], self._text_columns, with_style=False)
        exact = np.hstack([self._numbers([*self._scores([item])], 1), self._heaviest.block(tokens, 1)])
        vector = np.zeros(self._dim, np.float32)
        vector[: self._n_content] = _unit(np.hstack([exact, self._coded(tokens, 1)]))[0]
        return vector

    def embed_now(self, items: Sequence[Item]) -> Floats:
        """What ``embed`` returns, computed in the calling thread."""
        content = self._content(items)
        if not self._statistics.is_fitted:
            return content
        crowds = self._crowds(content) - self._usual_crowd if len(self._anchors) else np.zeros(len(items))
        openness = (_OPEN - _CROWDING / _OPEN * crowds) * np.any(content, axis=1)
        return np.asarray(_unit(np.hstack([content, openness[:, None]])), np.float32)

    def _crowds(self, content: Floats) -> Doubles:
        """How near the nearest anchors are to each row on average, cosines, float64 (n,)."""
        n = min(_N_NEIGHBOURS, 1 + len(self._anchors) // 50)
        near = content @ self._anchors.T
        near[near > _ITSELF] = -1
        return np.asarray(np.partition(near, -n, axis=1)[:, -n:].mean(axis=1), np.float64)

    def _content(self, items: Sequence[Item]) -> Floats:
        """Unit vectors without the dimension that tells of crowds, float32 (n_items, n_content)."""
        tokens = tokens_of(items, self._text_columns, with_style=self._statistics.is_fitted)
        scored = list(self._scores(items))
        numbers, heaviest = self._numbers(scored, len(items)), self._heaviest.centred(tokens, len(items))
        exact, code = np.hstack([numbers, heaviest]), self._coded(tokens, len(items))
        room = np.full(len(items), _CODE_SQUARE)
        if self._statistics.is_fitted:
            room = np.maximum(self._mean_square + _CODE_SQUARE - _squares(exact), _LEAST_SQUARE)
        code *= np.sqrt(np.minimum(room / np.maximum(_squares(code), 1e-12), 1.0))[:, None]
        has_content = np.any(numbers, axis=1) | (np.bincount(tokens.rows, minlength=len(items)) > 0)
        if self._statistics.is_fitted:
            code += _filling(self._slack(tokens, items, scored), code, room)
        return np.asarray(_unit(np.hstack([exact, code])) * has_content[:, None], np.float32)

    def _mean_square_of_exact(self) -> float:
        """Of fitted statistics, over all items."""
        amplitudes = self._amplitudes()
        # Cosine and sine of one angle: their squares sum up to one.
        full = float((amplitudes[::2] ** 2).sum())
        features = self._statistics.features.values()
        numbers = sum(
            each.share * each.weight * (full - float(((each.means[: len(amplitudes)] * amplitudes) ** 2).sum()))
            for each in features
        )
        return numbers + self._heaviest.mean_square

    def _amplitudes(self) -> Doubles:
        return _AMPLITUDES[: 2 * self._n_harmonics] * math.sqrt(self._weight_of_one)

    def _scores(self, items: Sequence[Item]) -> Iterator[_Scored]:
        """Of each feature of ``items`` that is known."""
        for name in sorted({name for item in items for name in item.features}):
            feature = self._statistics.feature(name)
            if feature is not None:
                values = np.array([item.features.get(name, math.nan) for item in items], np.float64)
                scores = feature.scores_of(np.nan_to_num(values))
                yield name, feature, np.where(np.isfinite(values), scores, math.nan)

    def _numbers(self, scored: Sequence[_Scored], n_items: int) -> Doubles:
        """Shape (n_items, 2 * n_harmonics * n_planes); what is missing is as on average."""
        amplitudes = self._amplitudes()
        planes = np.zeros((n_items, self._n_planes, len(amplitudes)))
        for _, feature, scores in scored:
            centred = (waves(scores) - feature.means)[:, : len(amplitudes)] * amplitudes
            planes[:, feature.plane % self._n_planes] += np.nan_to_num(centred) * math.sqrt(feature.weight)
        return planes.reshape(n_items, -1)

    def _coded(self, tokens: Tokens, n_rows: int) -> Doubles:
        """Sums of the codes of all tokens that have no dimension of their own, shape (n_rows, n_coded)."""
        weights = tokens.weights * self._rarity(tokens)
        coded = (weights > 0) & ~self._heaviest.has(tokens.hashes)
        codes = _signs(tokens.hashes[coded] ^ np.uint64(self._statistics.salt), self._n_coded)
        return _summed(codes * (weights[coded] / math.sqrt(self._n_coded))[:, None], tokens.rows[coded], n_rows)

    def _rarity(self, tokens: Tokens) -> Doubles:
        return np.where(tokens.is_tag, 1.0, self._statistics.rarity(tokens.hashes))

    def _slack(self, tokens: Tokens, items: Sequence[Item], scored: Sequence[_Scored]) -> Doubles:
        """Directions to fill room with, shape (n_items, n_coded)."""
        pairs = letter_pairs_of(items, self._text_columns)
        signs = _signs(pairs.hashes ^ np.uint64(self._statistics.salt), self._n_coded)
        letters = _summed(signs * self._statistics.rarity(pairs.hashes)[:, None], pairs.rows, len(items))
        by_chance = _signs(_seeds(tokens, items) + np.uint64(self._statistics.salt), self._n_coded)
        return (
            _LETTERS_IN_SLACK * _unit(letters)
            + _NUMBERS_IN_SLACK * _unit(self._closeness(scored, len(items)))
            + _CHANCE_IN_SLACK * _unit(by_chance)
        )

    def _closeness(self, scored: Sequence[_Scored], n_items: int) -> Doubles:
        """Random features of a Laplacian kernel of all numbers at once, shape (n_items, n_coded); 0 without any."""
        angles, n_known = np.zeros((n_items, self._n_coded)), np.zeros(n_items)
        for name, feature, scores in scored:
            # Frequencies of a Cauchy distribution.
            frequencies = np.tan(math.pi * (self._draws(f"number {name}") - 0.5))
            weight = _LAPLACIAN * self._weight_of_one * feature.weight
            angles += np.nan_to_num(scores)[:, None] * (weight * frequencies)
            n_known += np.isfinite(scores)
        phases = 2 * math.pi * self._draws("phases of all features")
        return np.asarray(np.cos(angles + phases) * (n_known > 0)[:, None], np.float64)

    def _draws(self, name: str) -> Doubles:
        """Numbers between 0 and 1, one a coded dimension."""
        start = np.uint64(hash_of(name) ^ self._statistics.salt)
        draws = mixed(start + np.arange(1, self._n_coded + 1, dtype=np.uint64) * _WORD)
        return np.asarray(draws >> np.uint64(11), np.float64) * 2.0**-53 + 2.0**-54


class _Columns:
    """The dimensions that the catalogue's heaviest tokens have to themselves."""

    def __init__(self, statistics: CatalogueStatistics, n: int) -> None:
        heaviest = statistics.heaviest
        self.n = min(n, len(heaviest.hashes))
        order = np.argsort(heaviest.hashes[: self.n], kind="stable")
        self._statistics = statistics
        self._hashes, self._is_tag = heaviest.hashes[order], heaviest.is_tag[order]
        self._means, squares = heaviest.means[order], heaviest.squares[order]
        self.mean_square = float((squares - self._means**2).sum())
        self.mean_square_of_coded_tags = max(statistics.tag_square - float(squares[self._is_tag].sum()), 0.0)

    def has(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Which of ``hashes`` have a dimension."""
        return np.isin(hashes, self._hashes)

    def block(self, tokens: Tokens, n_rows: int) -> Doubles:
        """What each row has of each of them, shape (n_rows, n)."""
        own = tokens.where(self.has(tokens.hashes))
        values = own.weights * np.where(own.is_tag, 1.0, self._statistics.rarity(own.hashes))
        cells = own.rows * self.n + np.searchsorted(self._hashes, own.hashes)
        sums = np.bincount(cells, values, minlength=n_rows * self.n)
        return np.asarray(sums.reshape(n_rows, self.n), np.float64)

    def centred(self, tokens: Tokens, n_rows: int) -> Doubles:
        """``block`` less what items have on average, in rows that have any tag, or any text, at all."""
        n_tags = np.bincount(tokens.rows[tokens.is_tag], minlength=n_rows)
        n_text = np.bincount(tokens.rows[~tokens.is_tag], minlength=n_rows)
        present = np.where(self._is_tag, n_tags[:, None] > 0, n_text[:, None] > 0)
        return self.block(tokens, n_rows) - self._means * present


def content_hash(item: Item, text_columns: Collection[str] = ()) -> bytes:
    """16 bytes that change whenever anything does that an embedder reads of ``item``: no popularity, no numbers."""
    content = [
        sorted(item.titles.items()),
        [item.creator, item.creator_local, item.language],
        [item.genres, item.moods],
        sorted(item.features.items()),
        texts_of(item, text_columns),
    ]
    return blake2b(json.dumps(content).encode(), digest_size=_HASH_BYTES).digest()


def _filling(slack: Doubles, code: Doubles, room: Doubles) -> Doubles:
    """The part of ``slack`` at a right angle to ``code``, as long as fills it up to ``room``."""
    squares = _squares(code)
    along = (slack * code).sum(axis=1) / np.maximum(squares, 1e-12)
    return _unit(slack - along[:, None] * code) * np.sqrt(np.maximum(room - squares, 0.0))[:, None]


def _seeds(tokens: Tokens, items: Sequence[Item]) -> Hashes:
    """A number an item by its tokens, those that nobody else has too; by its numbers where it has no text."""
    seeds = np.zeros(len(items), np.uint64)
    np.add.at(seeds, tokens.rows, mixed(tokens.hashes))
    has_text = np.bincount(tokens.rows[~tokens.is_tag], minlength=len(items)) > 0
    for row in np.flatnonzero(~has_text).tolist():
        numbers = json.dumps(sorted(items[row].features.items())).encode()
        seeds[row] ^= np.frombuffer(blake2b(numbers, digest_size=8).digest(), "<u8")[0]
    return seeds


def _signs(seeds: Hashes, n: int) -> Doubles:
    """Signs, 1 or -1, that the seeds alone decide, shape (len(seeds), n)."""
    places = np.arange(-(-n // 64), dtype=np.uint64) * _WORD
    words = mixed(mixed(seeds)[:, None] + places).astype("<u8", copy=False)
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, count=n)
    return np.asarray(bits * 2.0 - 1.0, np.float64)


def _summed(vectors: Doubles, rows: npt.NDArray[np.int64], n_rows: int) -> Doubles:
    """The sums of the vectors of each row; ``rows`` rise."""
    sums = np.zeros((n_rows, vectors.shape[1]))
    present, starts = np.unique(rows, return_index=True)
    if len(present):
        sums[present] = np.add.reduceat(vectors, starts, axis=0)
    return sums


def _squares(vectors: Doubles) -> Doubles:
    return np.asarray(np.einsum("ij,ij->i", vectors, vectors), np.float64)


def _unit(vectors: Doubles) -> Doubles:
    """Rows of length one; a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)
