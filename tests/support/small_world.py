"""Made-up catalogues for simulated listeners, as the table of a catalogue would give them."""

from functools import lru_cache

from models.catalogue import Item
from training.generate import generate_songs
from training.simulator.assumptions import Assumptions
from training.simulator.world import World


@lru_cache
def made_up_items(n: int = 300, seed: int = 1) -> tuple[Item, ...]:
    """``n`` items with ids 10, 20, 30 and so on: no id is a place."""
    return tuple(
        Item(
            item_id=10 * number,
            titles=song.titles,
            creator=song.creator,
            genres=song.genres,
            features=song.features,
            popularity=song.popularity or 0.0,
        )
        for number, song in enumerate(generate_songs(seed, n, max(n // 8, 1)), 1)
    )


@lru_cache
def small_world(n: int = 300, seed: int = 1, assumptions: Assumptions | None = None) -> World:
    return World.of(made_up_items(n, seed), assumptions or Assumptions())
