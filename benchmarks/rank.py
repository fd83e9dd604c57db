"""How long ``main.py rank`` takes and how much memory: seeded interactions of clustered listeners with a long tail.

    .venv/bin/python -m benchmarks.rank [--interactions 1000000] [--items 20000] [--queries 10000]

Queries are listeners whom the training data does not know; what they went on to like is kept back, so that the lists
can be judged beside popularity. Figures are in ``docs/benchmarks.md``.
"""

import argparse
import csv
import resource
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console

from core.collaborative import Indices, Likes
from core.evaluation import quality_at

K = 20
N_CLUSTERS = 60
N_GIVEN = 8
OWN_TASTE = 0.8
MEAN_LENGTH = 25
console = Console(width=120)


@dataclass(frozen=True, slots=True)
class World:
    """Items of one cluster each; a listener likes two clusters, and now and then whatever is popular."""

    clusters: Indices
    popularity: np.ndarray[tuple[int], np.dtype[np.float64]]

    @classmethod
    def of(cls, n_items: int, chance: np.random.Generator) -> "World":
        popularity = 1 / (np.arange(n_items) + 10.0)
        chance.shuffle(popularity)
        return cls(chance.integers(0, N_CLUSTERS, n_items), popularity)

    def likes(self, n_users: int, chance: np.random.Generator) -> list[Indices]:
        """Distinct items of each, drawn without putting back."""
        lengths = np.clip(chance.lognormal(np.log(MEAN_LENGTH) - 0.4, 0.9, n_users), 3, 500).astype(np.int64)
        return [self._list(int(length), chance) for length in lengths]

    def _list(self, length: int, chance: np.random.Generator) -> Indices:
        own = np.isin(self.clusters, chance.integers(0, N_CLUSTERS, 2))
        weights = self.popularity * np.where(own, OWN_TASTE / self.popularity[own].sum(), 1 - OWN_TASTE)
        # the greatest of log-weights plus Gumbel noise are a draw without putting back
        keys = np.log(weights) + chance.gumbel(size=len(weights))
        return np.argpartition(-keys, length)[:length]


def write_files(directory: Path, n_interactions: int, n_items: int, n_queries: int, seed: int) -> dict[str, set[str]]:
    """The three files; returns what each query went on to like."""
    chance = np.random.default_rng(seed)
    world = World.of(n_items, chance)
    _write_items(directory / "items.csv", world, chance)
    n_left, n_users = n_interactions, 0
    with (directory / "train.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("user_id", "item_id", "weight", "occurred_at"))
        while n_left > 0:
            for liked in world.likes(1000, chance):
                kept = liked[:n_left]
                n_left -= len(kept)
                weights = chance.geometric(0.3, len(kept))
                times = chance.integers(1_600_000_000, 1_700_000_000, len(kept))
                user = f"u{n_users}"
                n_users += 1
                writer.writerows(
                    (user, f"i{item}", weight, at) for item, weight, at in zip(kept, weights, times, strict=True)
                )
    wanted: dict[str, set[str]] = {}
    with (directory / "queries.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("query_id", "item_id", "weight"))
        for query, liked in enumerate(world.likes(n_queries, chance)):
            n_given = max(min(N_GIVEN, len(liked) - 2), 1)
            writer.writerows((f"q{query}", f"i{item}", 1) for item in liked[:n_given])
            wanted[f"q{query}"] = {f"i{item}" for item in liked[n_given:]}
    return wanted


def _write_items(path: Path, world: World, chance: np.random.Generator) -> None:
    adjectives = [f"word{place}" for place in range(2000)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("item_id", "title", "genre", "tempo", "year"))
        for item, cluster in enumerate(world.clusters):
            words = " ".join(adjectives[int(place)] for place in chance.integers(0, len(adjectives), 4))
            tempo, year = 60 + cluster + chance.normal(0, 5), 1960 + chance.integers(0, 65)
            writer.writerow((f"i{item}", words, f"genre {cluster // 2}", f"{tempo:.1f}", year))


def ndcg(path: Path, wanted: dict[str, set[str]]) -> float:
    """Mean NDCG@20 of a file of ranked lists."""
    lists: dict[str, list[str]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            lists[row["query_id"]].append(row["item_id"])
    names = sorted({item for items in (*lists.values(), *wanted.values()) for item in items})
    places = {name: place for place, name in enumerate(names)}
    top = np.full((len(wanted), K), -1, np.int64)
    for row_place, query in enumerate(wanted):
        found = [places[item] for item in lists[query][:K]]
        top[row_place, : len(found)] = found
    targets = Likes.of([[places[item] for item in items] for items in wanted.values()])
    return float(quality_at(top, targets, K).ndcg.mean())


def measure(directory: Path, arguments: argparse.Namespace) -> None:
    wanted = write_files(directory, arguments.interactions, arguments.items, arguments.queries, arguments.seed)
    out = directory / "ranked.csv"
    command = [sys.executable, "main.py", "rank", f"--out={out}"]
    command += [f"--{name}={directory / name}.csv" for name in ("train", "queries", "items")]
    started_s = time.monotonic()
    subprocess.run(command, check=True)
    took_s = time.monotonic() - started_s
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s, peak_gib = used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20
    console.print(
        f"{arguments.interactions:,} interactions, {arguments.items:,} items, {arguments.queries:,} queries: "
        f"{took_s:.0f} s ({cpu_s:.0f} s of CPU), peak {peak_gib:.2f} GiB, NDCG@{K} {ndcg(out, wanted):.4f}",
        highlight=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write the files here and leave them")
    arguments = parser.parse_args()
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        measure(arguments.keep, arguments)
        return
    with TemporaryDirectory() as directory:
        measure(Path(directory), arguments)


if __name__ == "__main__":
    main()
