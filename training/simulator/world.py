"""The space that tastes lie in: what a catalogue says of its items, whatever the domain calls it."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from core.errors import ConfigurationError
from models.catalogue import Item
from training.simulator.assumptions import Assumptions

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_NAME_DIM = 16
_N_PAIRS = 4000
_MIN_ITEMS = 20


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """A catalogue of n items in order of id.

    ``ids`` int64 (n,); ``places`` float32 (n, dim), where alike items lie near each other; two of the catalogue lie 1
    apart, squared, in the middle of cases. ``appeal`` float64 (n,) is popularity as it draws choices, above 0.
    ``lengths_s`` float64 (n,).
    """

    ids: Indices
    places: Floats
    appeal: Doubles
    lengths_s: Doubles
    assumptions: Assumptions

    @classmethod
    def of(cls, items: Sequence[Item], assumptions: Assumptions) -> "World":
        """Of numeric features, genres and creators, as far as there are any.

        Raises ``ConfigurationError`` where there are too few items, or nothing that tells them apart.
        """
        if len(items) < _MIN_ITEMS:
            raise ConfigurationError(f"too few items to simulate listeners on: {len(items)}, {_MIN_ITEMS} are needed")
        ordered = sorted(items, key=lambda item: item.item_id)
        ids = np.array([item.item_id for item in ordered], np.int64)
        chance = np.random.default_rng([0, len(ids)])
        return cls(
            ids=ids,
            places=_in_common_units(_places(ordered, assumptions), chance),
            appeal=_appeal(ordered, assumptions, chance),
            lengths_s=assumptions.item_length_s
            * np.exp(assumptions.item_length_spread * chance.standard_normal(len(ids))),
            assumptions=assumptions,
        )

    def digest(self) -> bytes:
        """Changes with the catalogue, what is known of its items, and the assumptions."""
        told = blake2b(repr(self.assumptions).encode(), digest_size=16)
        for array in (self.ids, np.round(self.places, 4), np.round(self.appeal, 6)):
            told.update(np.ascontiguousarray(array).tobytes())
        return told.digest()

    def affinities(self, squared: Floats | Doubles) -> Floats:
        """From 0 to 1, of squared distances."""
        return np.asarray(np.exp(np.float32(-self.assumptions.strangeness) * squared.astype(np.float32, copy=False)))


def _places(items: Sequence[Item], assumptions: Assumptions) -> Doubles:
    numbers = _standardised(items)
    return np.hstack(
        [
            numbers * np.sqrt(assumptions.feature_weight / max(numbers.shape[1], 1)),
            _named([item.genres for item in items]) * np.sqrt(assumptions.genre_weight),
            _named([(item.creator,) if item.creator else () for item in items]) * np.sqrt(assumptions.creator_weight),
        ]
    )


def _standardised(items: Sequence[Item]) -> Doubles:
    """Features with mean 0 and deviation 1, (n, n_features); what is missing counts as the mean."""
    names = sorted({name for item in items for name in item.features})
    values = np.array([[item.features.get(name, np.nan) for name in names] for item in items], np.float64)
    values = values.reshape(len(items), len(names))
    values[~np.isfinite(values)] = np.nan
    known = np.isfinite(values).any(axis=0)
    values = values[:, known]
    deviations = np.nanstd(values, axis=0)
    return np.asarray(np.nan_to_num((values - np.nanmean(values, axis=0)) / np.where(deviations > 0, deviations, 1.0)))


def _named(names: Sequence[tuple[str, ...]]) -> Doubles:
    """The mean direction of each item's names, (n, 16): a name has its own, the same in every catalogue."""
    numbers: dict[str, int] = {}
    rows = [(row, numbers.setdefault(name, len(numbers))) for row, own in enumerate(names) for name in own]
    if not numbers:
        return np.zeros((len(names), 0))
    directions = np.stack([_direction(name) for name in numbers])
    sums = np.zeros((len(names), _NAME_DIM))
    owners, places = np.array(rows, np.int64).T
    np.add.at(sums, owners, directions[places])
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(sums / np.where(lengths > 0, lengths, 1.0))


def _direction(name: str) -> Doubles:
    seed = int.from_bytes(blake2b(name.encode(), digest_size=8).digest())
    return np.asarray(np.random.default_rng(seed).standard_normal(_NAME_DIM))


def _in_common_units(places: Doubles, chance: np.random.Generator) -> Floats:
    """Scaled so that two items taken at random lie 1 apart, squared, in the middle of cases."""
    first, second = chance.integers(0, len(places), (2, _N_PAIRS))
    squared = ((places[first] - places[second]) ** 2).sum(axis=1)[first != second]
    middle = float(np.median(squared))
    if not middle > 0:
        raise ConfigurationError("no features, genres or creators tell the items apart: there are no tastes to have")
    return np.asarray(places / np.sqrt(middle), np.float32)


def _appeal(items: Sequence[Item], assumptions: Assumptions, chance: np.random.Generator) -> Doubles:
    """By popularity where the catalogue knows any, else by Zipf's law in an order of its own."""
    known = np.array([item.popularity for item in items], np.float64)
    ranks = chance.permutation(len(items)) + 1.0
    popularity = known if known.max() > 0 else 1.0 / np.sqrt(ranks)
    return np.asarray((np.clip(popularity, 0, None) + assumptions.popularity_floor) ** assumptions.popularity_bias)
