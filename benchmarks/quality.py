"""How good the collaborative model is on the Last.fm splits, the bar's method re-run beside it.

    .venv/bin/python -m benchmarks.quality [--data ../shared/data] [--budget-s 100] [--protocol S --protocol W]

Parameters are chosen by the program on ``inner``; the test part is scored once. Figures are in ``docs/benchmarks.md``.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks import lastfm
from core.collaborative import CollaborativeModel, Floats, Likes, as_arrays, top_items
from core.evaluation import (
    Interval,
    Quality,
    Statistic,
    bootstrap,
    mean_of,
    paired_bootstrap,
    pooled_recall,
    quality_at,
)
from training import baselines
from training.baselines import Scorer
from training.cold_items import ContentRegression
from training.collaborative_fit import LinearConfig
from training.tuning import Validation, first_likes, fit, popularity_of, tune

K = 20
# Each inner split of S asks 300 listeners, one of W nearly 1,900.
N_FOLDS = {"S": 2, "W": 1}
BAR = "bar: EDLAE + tags, ALS (implicit), z-scores added"
OURS = "ours"
console = Console(width=120)


def judged(split: lastfm.Split, score: Scorer, inputs: Likes | None = None) -> Quality:
    popularity = popularity_of(split.interactions)
    top, _ = top_items(score(inputs or split.inputs), split.inputs, popularity, K)
    return quality_at(top, split.targets, K)


def contestants(split: lastfm.Split) -> dict[str, Scorer]:
    full = baselines.edlae(split.interactions, split.content, LinearConfig(ridge=70.0, dropout=1.0, content_weight=2.0))
    als = baselines.implicit_als(split.interactions)
    return {
        "popularity": baselines.popularity(split.interactions),
        "item-kNN": baselines.item_knn(split.interactions),
        "ALS (implicit, 128)": als,
        "EASE, exact": baselines.ease(split.interactions),
        "EDLAE + tags, full rank": full,
        BAR: baselines.fused(full, als),
    }


def measure(data: Path, protocol: str, budget_s: float) -> None:
    folds = lastfm.load_inner(data, protocol, N_FOLDS[protocol])
    started_s = time.monotonic()
    validations = [Validation(fold.interactions, fold.content, fold.inputs, fold.targets) for fold in folds]
    parameters = tune(validations, budget_s=budget_s)
    console.print(f"{protocol}: chosen on inner in {time.monotonic() - started_s:.0f} s: {parameters}", highlight=False)
    split = lastfm.load(data, protocol)
    started_s = time.monotonic()
    model = fit(split.interactions, split.content, parameters)
    console.print(f"fit in {time.monotonic() - started_s:.0f} s; {_size(model)}; {_speed(model, split.inputs)}")
    scorers = {**contestants(split), OURS: model.scores}
    qualities = {name: judged(split, scorer) for name, scorer in scorers.items()}
    _print_qualities(protocol, qualities)
    if protocol == "S":
        _print_curve(split, scorers)


def _size(model: CollaborativeModel) -> str:
    n_bytes = sum(array.nbytes // 2 for block in model.blocks for array in as_arrays(block).values())
    return f"{n_bytes / len(model.popularity):.0f} bytes of model per item at 16 bits"


def _speed(model: CollaborativeModel, inputs: Likes) -> str:
    times_s = []
    for row in range(min(inputs.n_rows, 200)):
        started_s = time.perf_counter()
        model.top(inputs.rows(row, row + 1), K)
        times_s.append(time.perf_counter() - started_s)
    return f"one listener alone p50 {1000 * np.median(times_s):.2f} ms"


def _print_qualities(protocol: str, qualities: dict[str, Quality]) -> None:
    table = Table("method", f"Recall@{K}", f"NDCG@{K}", "ours above it: recall", "NDCG", title=f"protocol {protocol}")
    for name, quality in qualities.items():
        cells = [_interval(bootstrap(quality, statistic)) for statistic in (pooled_recall, mean_of("ndcg"))]
        if name != OURS:
            cells += [_difference(qualities[OURS], quality, by) for by in (pooled_recall, mean_of("ndcg"))]
        table.add_row(name, *cells)
    console.print(table)


def _interval(interval: Interval) -> str:
    return f"{interval.value:.4f} ({interval.low:.3f} to {interval.high:.3f})"


def _difference(ours: Quality, theirs: Quality, statistic: Statistic) -> str:
    found = paired_bootstrap(ours, theirs, statistic)
    return f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def _print_curve(split: lastfm.Split, scorers: dict[str, Scorer]) -> None:
    lengths = (1, 2, 3, 5, 10, 20)
    table = Table("method", *map(str, lengths), title=f"NDCG@{K} of new listeners by the number of likes given")
    for name in ("popularity", "EASE, exact", BAR, OURS):
        curve = [judged(split, scorers[name], first_likes(split.inputs, n)).ndcg.mean() for n in lengths]
        table.add_row(name, *(f"{value:.4f}" for value in curve))
    console.print(table)


def measure_cold(data: Path) -> None:
    split = lastfm.load_cold(data)
    mean_vectors = (split.interactions @ split.content).toarray()
    content = split.content.toarray()
    regression = ContentRegression.fit(split.interactions, split.content)
    methods = {
        "mean tag vector, cosine": mean_vectors @ content[split.cold].T,
        OURS: regression.listeners @ regression.vectors(split.content[split.cold]).T,
    }
    table = Table("method", "Recall@20 among the cold", title="cold artists by tags alone")
    for name, scores in methods.items():
        table.add_row(name, _interval(bootstrap(_judged_cold(split, scores), pooled_recall)))
    console.print(table)


def _judged_cold(split: lastfm.ColdSplit, scores: Floats) -> Quality:
    nothing = Likes.of([[] for _ in range(len(scores))])
    top, _ = top_items(np.asarray(scores, np.float32), nothing, np.zeros(scores.shape[1]), K)
    return quality_at(split.cold[top], split.targets, K)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--budget-s", type=float, default=100.0, help="for choosing parameters, per protocol")
    parser.add_argument("--protocol", action="append", choices=("S", "W", "COLD"))
    arguments = parser.parse_args()
    with threadpool_limits(1):
        for protocol in arguments.protocol or ("S", "W", "COLD"):
            if protocol == "COLD":
                measure_cold(arguments.data)
            else:
                measure(arguments.data, protocol, arguments.budget_s)


if __name__ == "__main__":
    main()
