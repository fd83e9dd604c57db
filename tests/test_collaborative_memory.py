"""What the collaborative model takes of memory: an item of it, and a listener who is asked for."""

import pytest

from benchmarks.collaborative_search import measure_memory, memory_of, model_of
from core.fitted_collaborative import FittedCollaborative
from services.collaborative_source import InMemoryCollaborativeSource
from services.vector_scan import EXACT_BELOW

# The most of which all are scored, for whom a listener takes the most.
N_ITEMS = EXACT_BELOW - 1


@pytest.fixture(scope="module")
def fitted() -> FittedCollaborative:
    """As wide as the widest that is fitted."""
    return model_of(N_ITEMS, 500)


def test_an_item_takes_a_kilobyte_and_a_half_at_the_most(fitted: FittedCollaborative) -> None:
    assert len(fitted.to_bytes()) / N_ITEMS < 1000
    assert fitted.model.nbytes / N_ITEMS < 1.5 * 1024


@pytest.mark.parametrize("n_likes", [1, 12, 100, 500])
async def test_a_listener_takes_a_megabyte_at_the_most(fitted: FittedCollaborative, n_likes: int) -> None:
    source = InMemoryCollaborativeSource(fitted)
    likes = dict.fromkeys(range(1, n_likes + 1), 1.0)
    await memory_of(source, likes)  # what is made once is none of the listener's
    n_bytes = await memory_of(source, likes)
    # No less than a score of each item, or nothing was measured.
    assert 4 * N_ITEMS < n_bytes < 1_000_000


async def test_what_the_page_tells_of_memory_is_printed_by_its_command() -> None:
    told = await measure_memory(1500, 50)
    assert told.startswith("1500 items: ")
    assert " kB of 12 likes, " in told
