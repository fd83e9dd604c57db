"""Whether a fitted model finds the tastes that were planted: the truth is known, so lists are judged by it.

``main.py evaluate`` judges lists by what listeners went on to do; here the same split and the same fit are judged by
how much the items truly suit.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.collaborative import Doubles, Indices, top_items
from core.errors import ConfigurationError
from core.evaluation import Interval, bootstrap_mean
from core.splits import Interactions, Split
from training.evaluate import content_of_items, fit_ours, split_of, train_matrix, with_raw_weights
from training.interaction_files import dataset_files, read_interactions
from training.simulator.tastes import Tastes
from training.simulator.world import World
from training.tuning import popularity_of
from training.validation import listeners_of
from training.weighing import weighed_likes

Tell = Callable[[str], None]

OURS, POPULARITY, CHANCE, BEST = "collaborative", "popularity", "chance", "the best there is"


@dataclass(frozen=True, slots=True)
class Recovery:
    """True affinity of lists of ``k`` items, 0 to 1, on listeners whom the fit did not know.

    ``means`` by method; ``gains`` is how much higher ours is, listener by listener.
    """

    k: int
    n_listeners: int
    means: Mapping[str, Interval]
    gains: Mapping[str, Interval]

    def __iter__(self) -> Iterator[str]:
        """As lines for people."""
        yield f"true affinity of the first {self.k} of {self.n_listeners} listeners whom the fit did not know (95 %):"
        for name, found in self.means.items():
            yield f"  {name}: {found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
        for name, gain in self.gains.items():
            yield f"  {OURS} above {name}: {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"


def recovered(
    dataset: Path,
    world: World,
    *,
    simulation_seed: int,
    n_days: int,
    k: int = 20,
    budget_s: float = 0.0,
    seed: int = 0,
    tell: Tell = lambda _: None,
) -> Recovery:
    """Of a data set that ``simulate --out`` wrote. Raises ``ConfigurationError`` where there is too little data."""
    interactions, items = dataset_files(dataset)
    data = read_interactions(interactions)
    split = split_of(data, "new", seed)
    if not split.targets.any():
        raise ConfigurationError(f"{dataset}: too little data, nobody is left to ask")
    ours = fit_ours(data, split, "new", content_of_items(data, items), budget_s=budget_s, seed=seed, tell=tell)
    inputs, _ = listeners_of(with_raw_weights(data), split, len(data.item_ids))
    popularity = popularity_of(train_matrix(data, split))
    truth = _truth(data, split, world, simulation_seed, float(n_days))
    scores = {
        OURS: ours.model.scores(weighed_likes(inputs, ours.weighing.asked)),
        POPULARITY: np.tile(popularity.astype(np.float32), (inputs.n_rows, 1)),
        CHANCE: np.random.default_rng(seed).random(truth.shape).astype(np.float32),
        BEST: truth.astype(np.float32),
    }
    found = {
        name: _mean_truth(top_items(of_method, inputs, popularity, k)[0], truth) for name, of_method in scores.items()
    }
    return Recovery(
        k,
        inputs.n_rows,
        {name: bootstrap_mean(values) for name, values in found.items()},
        {name: bootstrap_mean(found[OURS] - found[name]) for name in (POPULARITY, CHANCE)},
    )


def _truth(data: Interactions, split: Split, world: World, seed: int, day: float) -> Doubles:
    """The affinity of each listener who is asked about to each item of the data, (n_listeners, n_items)."""
    rows = np.unique(data.users[split.targets])
    tastes = Tastes.of(world, [int(data.user_ids[row]) for row in rows.tolist()], seed)
    places = np.searchsorted(world.ids, np.array([int(item_id) for item_id in data.item_ids], np.int64))
    return np.stack([tastes.affinities(row, day)[places] for row in range(len(rows))]).astype(np.float64)


def _mean_truth(top: Indices, truth: Doubles) -> Doubles:
    return np.asarray(np.take_along_axis(truth, top, axis=1).mean(axis=1))
