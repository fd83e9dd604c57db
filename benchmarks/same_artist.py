"""How well do content embeddings find another song of the same artist, with the artist's name withheld?

    python -m benchmarks.same_artist spotify_songs.csv [--queries 2000] [--salts 3] [--half 0] [--only fitted]

The catalogue is the whole file; a query is any song whose artist has one of another title. The artist is not embedded,
and their name is taken out of titles. Songs of the query's own title are left out of its ranking: they are no hits, and
push nothing back. Popularity is not content and is not read. Prints hit@20 and MRR with 95 % bootstrap intervals.
"""

import argparse
import csv
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.stats import norm, rankdata

from config.catalogue_profile import load_profile
from core.catalogue_statistics import CatalogueCount
from core.embedding import HashingEmbedder
from core.item_tokens import style_of
from core.text_features import token_features, words
from models.catalogue import Item

Scores = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Similarity = Callable[[Ints], Scores]
"""Similarities of the queries at these rows to all songs, float32 (n_queries, n_songs)."""

_FEATURES = [
    "danceability",
    "energy",
    "loudness",
    "speechiness",
    "acousticness",
    "instrumentalness",
    "liveness",
    "valence",
    "tempo",
    "duration_ms",
]
_CHUNK = 500
_SEED = 0
_N_RESAMPLES = 1000
_N_BUCKETS = 2**20


@dataclass(frozen=True, slots=True)
class Songs:
    """Rows of the file without their artists' names: items, and who and what is the same by number, int64 (n,)."""

    items: list[Item]
    artists: Ints
    titles: Ints


def read_songs(path: Path) -> Songs:
    """All songs of the file, in its order."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    titles = [without_name(row["track_name"], row["artist_name"]) for row in rows]
    items = [
        Item(
            item_id=number,
            titles={"en": title},
            genres=(row["genre"],),
            features={name: float(row[name]) for name in _FEATURES},
        )
        for number, (row, title) in enumerate(zip(rows, titles, strict=True))
    ]
    return Songs(
        items, _numbered([row["artist_name"] for row in rows]), _numbered([" ".join(words(t)) for t in titles])
    )


def without_name(title: str, artist: str) -> str:
    """``title`` without the artist's name, in whatever case, where it stands as words of its own."""
    return re.sub(rf"(?<!\w){re.escape(artist)}(?!\w)", " ", title, flags=re.IGNORECASE) if artist else title


def _numbered(texts: Sequence[str]) -> Ints:
    return np.unique(np.array(texts), return_inverse=True)[1].astype(np.int64)


def queries_of(songs: Songs) -> Ints:
    """Rows of the songs whose artist has another title, int64 (n,)."""
    titles_of = defaultdict(set)
    for artist, title in zip(songs.artists.tolist(), songs.titles.tolist(), strict=True):
        titles_of[artist].add(title)
    return np.array([row for row, artist in enumerate(songs.artists.tolist()) if len(titles_of[artist]) > 1], np.int64)


def ranks(songs: Songs, queries: Ints, similarity: Similarity) -> Ints:
    """The rank from 1 of the first song by the query's artist; songs that are as near count as nearer."""
    found = [_ranks_of(songs, rows, similarity(rows)) for rows in _chunks(queries)]
    return np.concatenate(found)


def _chunks(queries: Ints) -> Iterator[Ints]:
    return (queries[start : start + _CHUNK] for start in range(0, len(queries), _CHUNK))


def _ranks_of(songs: Songs, rows: Ints, scores: Scores) -> Ints:
    same_title = songs.titles[rows][:, None] == songs.titles
    others = np.where(same_title, -np.inf, scores)
    same_artist = songs.artists[rows][:, None] == songs.artists
    best = np.where(same_artist, others, -np.inf).max(axis=1, keepdims=True)
    n_others_as_near = np.count_nonzero((others >= best) & ~same_artist, axis=1)
    return np.asarray(1 + n_others_as_near, np.int64)


# --- contestants ---


def by_vectors(vectors: npt.NDArray[np.float32]) -> Similarity:
    """Inner products."""
    return lambda rows: np.asarray(vectors[rows] @ vectors.T, np.float32)


def standardised(items: Sequence[Item]) -> npt.NDArray[np.float32]:
    """Audio features of mean 0 and deviation 1, float32 (n, 10)."""
    values = np.array([[item.features[name] for name in _FEATURES] for item in items])
    return np.asarray((values - values.mean(axis=0)) / values.std(axis=0), np.float32)


def normal_scores(items: Sequence[Item]) -> npt.NDArray[np.float32]:
    """Audio features by rank, as quantiles of a standard normal, float32 (n, 10)."""
    values = np.array([[item.features[name] for name in _FEATURES] for item in items])
    return np.asarray(norm.ppf((rankdata(values, axis=0) - 0.5) / len(items)), np.float32)


def tfidf(texts: Sequence[Sequence[str]], *, is_unit: bool = True) -> Similarity:
    """Inner products of TF-IDF vectors of the tokens of ``texts``, cosines where ``is_unit``.

    Else a word found nowhere else counts 1, and titles that share two words are nearer than those that share one.
    """
    features = token_features(texts)
    columns = (features.hashes % np.uint64(_N_BUCKETS)).astype(np.int64)
    rarity = np.log(len(texts) / np.bincount(columns, minlength=_N_BUCKETS).clip(1))[columns]
    lengths = np.sqrt(np.bincount(features.rows, rarity**2, minlength=len(texts)))
    scales = np.maximum(lengths[features.rows], 1e-12) if is_unit else np.log(len(texts))
    weights = (rarity / scales).astype(np.float32)
    matrix = sparse.csr_matrix((weights, (features.rows, columns)), shape=(len(texts), _N_BUCKETS))
    transposed = matrix.T.tocsc()
    return lambda rows: np.asarray((matrix[rows] @ transposed).toarray(), np.float32)


def rbf(values: npt.NDArray[np.float32]) -> Similarity:
    """exp(-|x - y|^2 / number of features): the untuned default of many libraries."""
    squares = (values**2).sum(axis=1)

    def similarity(rows: Ints) -> Scores:
        distances = squares[rows][:, None] + squares - 2 * values[rows] @ values.T
        return np.asarray(np.exp(-np.maximum(distances, 0) / values.shape[1]), np.float32)

    return similarity


def laplacian(values: npt.NDArray[np.float32], rate: float) -> Similarity:
    """exp(-rate * |x - y|), by the sum of absolute differences."""

    def similarity(rows: Ints) -> Scores:
        distances = sum(np.abs(column[rows][:, None] - column) for column in values.T)
        return np.asarray(np.exp(-rate * distances), np.float32)

    return similarity


def weighted(part: Similarity, weight: float) -> Similarity:
    """``weight`` times ``part``."""
    return lambda rows: np.float32(weight) * part(rows)


def together(*parts: Similarity) -> Similarity:
    """The plain sum."""
    return lambda rows: np.asarray(sum(part(rows) for part in parts), np.float32)


def l1(values: npt.NDArray[np.float32], weights: Mapping[str, float], slope: float) -> Similarity:
    """Minus ``slope`` times the weighed sum of absolute differences; features weigh 1 unless given."""
    factors = [np.float32(slope * weights.get(name, 1.0)) for name in _FEATURES]

    def similarity(rows: Ints) -> Scores:
        parts = (each * np.abs(column[rows][:, None] - column) for each, column in zip(factors, values.T, strict=True))
        return np.asarray(-sum(parts), np.float32)

    return similarity


def embedded(items: Sequence[Item], dim: int, weights: Mapping[str, float] | None, salt: int = 0) -> Similarity:
    """By hashing: with statistics of ``items`` where there are ``weights`` to fit them with, else by plain ones."""
    embedder = HashingEmbedder(dim)
    if weights is not None:
        counting = CatalogueCount(feature_weights=weights)
        for start in range(0, len(items), _CHUNK):
            counting.add(items[start : start + _CHUNK])
        embedder = HashingEmbedder.fitted(counting, dim, salt=salt)
    parts = [embedder.embed_now(items[start : start + _CHUNK]) for start in range(0, len(items), _CHUNK)]
    return by_vectors(np.concatenate(parts))


def exact_contestants(items: Sequence[Item], weights: Mapping[str, float]) -> dict[str, Similarity]:
    """What no vector of 256 dimensions is asked to hold, by name."""
    values = standardised(items)
    audio = by_vectors(values / np.linalg.norm(values, axis=1, keepdims=True))
    tags = tfidf([item.genres for item in items])
    texts = [words(item.titles["en"]) for item in items]
    title, raw = tfidf(texts), tfidf(texts, is_unit=False)
    styles = [[f"style {style}" for style in style_of(item.titles["en"])] for item in items]
    both = tfidf([[*text, *style] for text, style in zip(texts, styles, strict=True)], is_unit=False)
    return {
        "audio features, cosine": audio,
        "audio + genre + title TF-IDF": together(audio, tags, title),
        "RBF kernel + genre + title TF-IDF": together(rbf(values), tags, title),
        "Laplacian of quantiles + genre + raw title, exact": together(
            laplacian(normal_scores(items), 0.25), weighted(tags, 0.2), weighted(raw, 0.5)
        ),
        "L1 of quantiles + genre + words and style, exact": together(
            l1(normal_scores(items), weights, 0.05), weighted(tags, 0.17), weighted(both, 0.6)
        ),
    }


def contestants(items: Sequence[Item], weights: Mapping[str, float], salts: int) -> dict[str, Callable[[], Similarity]]:
    """All that the table compares, by name, each made when it is asked for."""
    exact = exact_contestants(items, weights)
    fitted = {
        f"hashing, 256 dimensions, fitted, salt {salt}": partial(embedded, items, 256, weights, salt)
        for salt in range(salts)
    }
    return {
        **{name: partial(_same, similarity) for name, similarity in exact.items()},
        **{f"hashing, {dim} dimensions, plain": partial(embedded, items, dim, None) for dim in (128, 256)},
        "hashing, 128 dimensions, fitted": partial(embedded, items, 128, weights),
        **fitted,
    }


def _same(similarity: Similarity) -> Similarity:
    return similarity


def half_of(songs: Songs, which: int) -> Songs:
    """One of two halves of the songs, drawn by a seed."""
    order = np.random.default_rng(_SEED).permutation(len(songs.items))
    rows = np.sort(order[which::2])
    return Songs([songs.items[row] for row in rows.tolist()], songs.artists[rows], songs.titles[rows])


# --- the table ---


def interval(values: npt.NDArray[np.float64]) -> str:
    """The mean and its 95 % bootstrap interval over queries."""
    generator = np.random.default_rng(_SEED)
    means = [values[generator.integers(len(values), size=len(values))].mean() for _ in range(_N_RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{values.mean():.4f} ({low:.4f} to {high:.4f})"


def main() -> None:
    """Read the arguments, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--queries", type=int, help="a seeded sample of so many; default: all")
    parser.add_argument("--salts", type=int, default=3, help="how many of the codes that are as good; default: 3")
    parser.add_argument("--half", type=int, choices=(0, 1), help="one half of the songs alone, drawn at random")
    parser.add_argument("--only", default="", help="contestants with this in their name")
    arguments = parser.parse_args()
    songs = read_songs(arguments.file)
    if arguments.half is not None:
        songs = half_of(songs, arguments.half)
    queries = queries_of(songs)
    if arguments.queries is not None and arguments.queries < len(queries):
        queries = np.sort(np.random.default_rng(_SEED).choice(queries, arguments.queries, replace=False))
    print(f"{len(songs.items)} songs, {len(queries)} queries")
    print(f"{'':52}{'hit@20':28}MRR")
    weights = load_profile("songs").item.feature_weights
    for name, make in contestants(songs.items, weights, arguments.salts).items():
        if arguments.only in name:
            found = ranks(songs, queries, make())
            print(f"{name:52}{interval((found <= 20).astype(np.float64)):28}{interval(1 / found)}", flush=True)


if __name__ == "__main__":
    main()
