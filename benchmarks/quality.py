"""How good the collaborative model is on the Last.fm splits, the bar's method re-run beside it.

    .venv/bin/python -m benchmarks.quality [--data ../shared/data] [--budget-s 100] [--protocol S|W|COLD|COLD-FRESH]

Parameters, ours and those of EASE, item-kNN and ALS, are chosen by the program on ``inner``; the bar's are those of
the table that set it. The test part is scored once. S draws its pictures into ``--pictures``. COLD-FRESH makes cold
splits of its own from the warm items. Figures are in ``docs/benchmarks.md``.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks import lastfm
from benchmarks.plot import Points, line_chart, write_chart
from core.collaborative import CollaborativeModel, Floats, Indices, Likes, top_items
from core.evaluation import (
    Interval,
    Quality,
    Statistic,
    bootstrap,
    intra_list_diversity,
    mean_of,
    paired_bootstrap,
    pooled_recall,
    quality_at,
)
from training import baselines
from training.baselines import BaselineConfigs, ImplicitConfig, Scorer
from training.cold_items import ColdConfig, ColdModel, mean_cosines, tune_cold
from training.collaborative_fit import LinearConfig, likes_of
from training.tuning import Validation, first_likes, fit, popularity_of, tune

K = 20
# Each inner split of S asks 300 listeners, one of W nearly 1,900.
N_FOLDS = {"S": 2, "W": 1}
N_LIKES_GIVEN = (1, 2, 3, 5, 10, 20)
N_CANDIDATES = 200
DIVERSITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
FRESH_SEEDS = (21, 22, 23, 24)
BAR = "bar: EDLAE + tags, ALS (implicit), z-scores added"
OURS = "ours"
console = Console(width=120)


def judged(split: lastfm.Split, score: Scorer, inputs: Likes | None = None) -> Quality:
    popularity = popularity_of(split.interactions)
    top, _ = top_items(score(inputs or split.inputs), split.inputs, popularity, K)
    return quality_at(top, split.targets, K)


def contestants(split: lastfm.Split, configs: BaselineConfigs) -> dict[str, Scorer]:
    full = baselines.edlae(split.interactions, split.content, LinearConfig(ridge=70.0, dropout=1.0, content_weight=2.0))
    als = baselines.implicit_als(split.interactions, ImplicitConfig(regularization=10.0, alpha=10.0))
    return {
        **baselines.collaborative(split.interactions, configs),
        "EDLAE + tags, full rank": full,
        BAR: baselines.fused(full, als),
    }


def measure(data: Path, protocol: str, budget_s: float, pictures: Path | None) -> None:
    folds = lastfm.load_inner(data, protocol, N_FOLDS[protocol])
    started_s = time.monotonic()
    validations = [Validation(fold.interactions, fold.content, fold.inputs, fold.targets) for fold in folds]
    parameters = tune(validations, budget_s=budget_s)
    console.print(f"{protocol}: chosen on inner in {time.monotonic() - started_s:.0f} s: {parameters}", highlight=False)
    configs = baselines.tuned(validations, validations[0].interactions.shape[1])
    console.print(f"baselines chosen on inner: {configs}", highlight=False)
    split = lastfm.load(data, protocol)
    started_s = time.monotonic()
    model = fit(split.interactions, split.content, parameters)
    console.print(f"fit in {time.monotonic() - started_s:.0f} s; {_size(model)}; {_speed(model, split.inputs)}")
    scorers = {**contestants(split, configs), OURS: model.scores}
    qualities = {name: judged(split, scorer) for name, scorer in scorers.items()}
    _print_qualities(protocol, qualities)
    if protocol == "S":
        curves = _curves(split, scorers)
        _print_curves(curves)
        if pictures is not None:
            _draw(pictures, curves, _trade_off(split, model))


def _size(model: CollaborativeModel) -> str:
    n_items = len(model.popularity)
    return (
        f"{len(model.to_bytes()) / n_items:.0f} bytes of model per item stored, {model.nbytes / n_items:.0f} in memory"
    )


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


def _curves(split: lastfm.Split, scorers: dict[str, Scorer]) -> dict[str, Points]:
    """NDCG by how many likes are given."""
    return {
        name: [
            (n, float(judged(split, scorers[name], first_likes(split.inputs, n)).ndcg.mean())) for n in N_LIKES_GIVEN
        ]
        for name in ("popularity", "EASE", BAR, OURS)
    }


def _print_curves(curves: dict[str, Points]) -> None:
    table = Table("method", *map(str, N_LIKES_GIVEN), title=f"NDCG@{K} of new listeners by the number of likes given")
    for name, points in curves.items():
        table.add_row(name, *(f"{value:.4f}" for _, value in points))
    console.print(table)


def _trade_off(split: lastfm.Split, model: CollaborativeModel) -> Points:
    """(diversity by tags, NDCG) of lists made by maximal marginal relevance, as the ranking makes them."""
    top, scores = model.top(split.inputs, N_CANDIDATES)
    units = _units(model.item_vectors)
    directions = np.random.default_rng(0).normal(size=(split.content.shape[1], 256)).astype(np.float32)
    tags = np.asarray(split.content @ directions)
    points = []
    table = Table(
        "diversity", f"NDCG@{K}", f"Recall@{K}", "intra-list diversity by tags", title="maximal marginal relevance"
    )
    for weight in DIVERSITIES:
        lists = np.stack(
            [_marginal(row, units, row_scores, weight) for row, row_scores in zip(top, scores, strict=True)]
        )
        quality = quality_at(lists, split.targets, K)
        ndcg, diversity = float(quality.ndcg.mean()), float(intra_list_diversity(lists, tags).mean())
        recall = bootstrap(quality, pooled_recall).value
        table.add_row(f"{weight:g}", f"{ndcg:.4f}", f"{recall:.4f}", f"{diversity:.4f}")
        points.append((diversity, ndcg))
    console.print(table)
    return points


def _marginal(candidates: Indices, units: Floats, scores: Floats, weight: float) -> Indices:
    """Greedily by relevance, 0 to 1, less the greatest cosine to what is chosen (Carbonell and Goldstein 1998)."""
    likeness = units[candidates] @ units[candidates].T
    gain = (1 - weight) * (scores - scores.min()) / max(float(np.ptp(scores)), 1e-9)
    redundancy = np.zeros(len(candidates))
    chosen = []
    for _ in range(K):
        place = int(np.argmax(gain - redundancy))
        chosen.append(place)
        gain[place] = -np.inf
        np.maximum(redundancy, weight * likeness[place], out=redundancy)
    return candidates[chosen]


def _units(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1))


def _draw(pictures: Path, curves: dict[str, Points], trade_off: Points) -> None:
    short = {name.split(":")[0]: points for name, points in curves.items()}
    title = "New listeners by the number of likes given (Last.fm, S)"
    write_chart(pictures / "short-histories.svg", line_chart(title, "likes given", f"NDCG@{K}", short, log_x=True))
    title = "Accuracy against diversity (Last.fm, S)"
    chart = line_chart(title, "intra-list diversity by tags", f"NDCG@{K}", {"ours, by MMR": trade_off})
    write_chart(pictures / "diversity.svg", chart)


def measure_cold(data: Path, budget_s: float, seed: int | None = None) -> None:
    """Scores the test part with what was chosen on cold items of the training part, and without parts of the method."""
    split = lastfm.load_cold(data, seed)
    config = tune_cold(split.interactions, split.counts, budget_s=budget_s)
    console.print(f"chosen on items of the training part held out once more: {config}", highlight=False)
    listeners = likes_of(split.interactions)
    plain = replace(config, own_share=0.0)
    methods = {
        "mean tag vector, cosine": mean_cosines(listeners, split.counts, split.cold),
        "ridge to factors, unit rows": _cold_scores(split, replace(plain, length_power=0.0)),
        "ridge to factors": _cold_scores(split, plain),
        f"{OURS}, unit rows": _cold_scores(split, replace(config, length_power=0.0)),
        OURS: _cold_scores(split, config),
    }
    title = f"cold artists by tags alone, {'the split of the file' if seed is None else f'fresh split {seed}'}"
    table = Table("method", f"Recall@{K} among the cold", f"NDCG@{K}", title=title)
    for name, scores in methods.items():
        quality = _judged_cold(split, scores)
        table.add_row(
            name, *(_interval(bootstrap(quality, statistic)) for statistic in (pooled_recall, mean_of("ndcg")))
        )
    console.print(table)


def _cold_scores(split: lastfm.ColdSplit, config: ColdConfig) -> Floats:
    model = ColdModel.fit(split.interactions, split.counts, config)
    return model.scores(likes_of(split.interactions), split.cold)


def _judged_cold(split: lastfm.ColdSplit, scores: Floats) -> Quality:
    nothing = Likes.of([[] for _ in range(len(scores))])
    top, _ = top_items(np.asarray(scores, np.float32), nothing, np.zeros(scores.shape[1]), K)
    return quality_at(split.cold[top], split.targets, K)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--budget-s", type=float, default=100.0, help="for choosing parameters, per protocol")
    parser.add_argument("--protocol", action="append", choices=("S", "W", "COLD", "COLD-FRESH"))
    parser.add_argument("--pictures", type=Path, help="directory for the pictures of S, as docs/img")
    arguments = parser.parse_args()
    with threadpool_limits(1):
        for protocol in arguments.protocol or ("S", "W", "COLD"):
            if protocol == "COLD":
                measure_cold(arguments.data, arguments.budget_s)
            elif protocol == "COLD-FRESH":
                for seed in FRESH_SEEDS:
                    measure_cold(arguments.data, arguments.budget_s, seed)
            else:
                measure(arguments.data, protocol, arguments.budget_s, arguments.pictures)


if __name__ == "__main__":
    main()
