"""What keeping every interest its share of a list costs or gains, on the inner splits of the Last.fm data.

    .venv/bin/python -m benchmarks.balance [--data ../shared/data] [--protocol S|W] [--n-listeners 500]

The first stage as it is served: profile, candidates by content (tags) and by the collaborative model, fusion, ranking
with diversity. ``RankingConfig.calibration`` varies, and nothing else. The test parts of the splits are not touched.
"""

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks import lastfm
from core.collaborative import Doubles, Floats, Indices, Likes
from core.evaluation import Quality, mean_of, paired_bootstrap, quality_at
from core.fitted_collaborative import FittedCollaborative
from core.ports.index import IndexRows
from core.profile import ProfileConfig, build_profile
from core.ranking import RankingConfig, rank
from core.retrieval import Retrieved, retrieve
from services.collaborative_source import InMemoryCollaborativeSource
from services.item_index import InMemoryItemIndex
from training.collaborative_fit import Matrix
from training.fusion_choice import ItemSignals, candidates_of, choose_weights
from training.tuning import DEFAULTS, fit, popularity_of

K, N_RANKED, N_RETRIEVED = 20, 100, 300
STRENGTHS = (0.0, 0.003, 0.01, 0.03, 0.1)
N_FOLDS = {"S": 2, "W": 1}
DIM = 256

console = Console(width=120)


@dataclass(frozen=True, slots=True)
class Listener:
    """What was found for one, with and without the collaborative model, and what is to be found."""

    fused: Retrieved
    by_content: Retrieved
    targets: Indices


def tag_vectors(content: Matrix) -> Floats:
    """Unit vectors of a random projection, float32 (n_items, DIM); zero without tags."""
    directions = np.random.default_rng(0).normal(size=(content.shape[1], DIM)).astype(np.float32)
    vectors = np.asarray(content @ directions)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


async def listeners_of(fold: lastfm.Split, n: int) -> list[Listener]:
    """The first ``n`` listeners of ``fold`` of whose likes one has tags, as the first stage serves them."""
    vectors, popularity = tag_vectors(fold.content), popularity_of(fold.interactions)
    ids = np.arange(len(vectors), dtype=np.int64)
    model = fit(fold.interactions, fold.content, DEFAULTS)
    signals = ItemSignals(vectors, np.log1p(popularity).astype(np.float32), np.full(len(ids), -1, np.int64))
    weights = choose_weights(list(candidates_of(model, fold.inputs, signals)), fold.targets)
    source = InMemoryCollaborativeSource(FittedCollaborative(ids, model, weights))
    index = InMemoryItemIndex(_rows(vectors, popularity), "tags")
    found = []
    for liked, targets in zip(_lists(fold.inputs), _lists(fold.targets), strict=True):
        known, of_likes = await index.vectors(liked.tolist())
        profile = build_profile(known, of_likes, np.ones(len(known), np.float32), ProfileConfig())
        if profile.is_cold:
            continue
        excluded, likes = set(liked.tolist()), dict.fromkeys(liked.tolist(), 1.0)
        fused = await retrieve(profile, index, N_RETRIEVED, excluded, source, likes)
        found.append(Listener(fused, await retrieve(profile, index, N_RETRIEVED, excluded), targets))
        if len(found) == n:
            break
    return found


def _rows(vectors: Floats, popularity: Doubles) -> IndexRows:
    n = len(vectors)
    shares = np.log1p(popularity) / np.log1p(popularity.max())
    return IndexRows(
        ids=np.arange(n, dtype=np.int64),
        vectors=vectors,
        popularity=shares.astype(np.float32),
        genres=[()] * n,
        moods=[()] * n,
        languages=[None] * n,
        creators=[f"artist {place}" for place in range(n)],
        version="tags",
    )


def _lists(likes: Likes) -> Iterator[Indices]:
    for row in range(likes.n_rows):
        yield likes.items[likes.starts[row] : likes.starts[row + 1]]


def judged(found: Sequence[Retrieved], targets: Likes, config: RankingConfig) -> tuple[Quality, float]:
    """The quality of the first ``K``, and how far their shares of interests are from the weights (0 to 1, a mean)."""
    lists, distances = [], []
    for each in found:
        ranked = [one.facts.item_id for one in rank(each, N_RANKED, config)][:K]
        lists.append(ranked)
        distances.append(share_distance(each, ranked))
    return quality_at(np.array(lists), targets, K), float(np.mean(distances))


def share_distance(found: Retrieved, listed: Sequence[int]) -> float:
    """Total variation between the interests' weights and their shares of ``listed``."""
    assert found.interests is not None and found.interest_weights is not None  # noqa: S101, PT018 - not cold
    homes = dict(zip((facts.item_id for facts in found.facts), found.interests.tolist(), strict=True))
    counts = np.bincount([homes[item] for item in listed], minlength=len(found.interest_weights))
    return float(np.abs(counts / len(listed) - found.interest_weights).sum() / 2)


def show(title: str, found: Sequence[Retrieved], targets: Likes) -> None:
    """One row a strength, each compared with none."""
    table = Table("calibration", f"NDCG@{K}", "more than without", "off the taste's shares", title=title)
    plain: Quality | None = None
    for strength in STRENGTHS:
        quality, distance = judged(found, targets, replace(RankingConfig(), calibration=strength))
        plain = plain or quality
        gain = paired_bootstrap(quality, plain, mean_of("ndcg"))
        cells = (f"{quality.ndcg.mean():.4f}", f"{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})")
        table.add_row(f"{strength:g}", *cells, f"{distance:.3f}")
    console.print(table)


def main() -> None:
    """Read the arguments and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--protocol", action="append", choices=("S", "W"))
    parser.add_argument("--n-listeners", type=int, default=500, help="of each fold, at the most")
    arguments = parser.parse_args()
    with threadpool_limits(1):
        for protocol in arguments.protocol or ("S", "W"):
            folds = lastfm.load_inner(arguments.data, protocol, N_FOLDS[protocol])
            found = [each for fold in folds for each in asyncio.run(listeners_of(fold, arguments.n_listeners))]
            targets = Likes.of([each.targets.tolist() for each in found])
            title = f"protocol {protocol}, inner, {len(found)} listeners"
            show(f"{title}: content and the collaborative model", [each.fused for each in found], targets)
            show(f"{title}: content alone", [each.by_content for each in found], targets)


if __name__ == "__main__":
    main()
