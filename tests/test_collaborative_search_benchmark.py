"""The benchmark of the collaborative search, on a model so small that ours is exact."""

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits

from benchmarks import collaborative_search
from benchmarks.collaborative_search import N_EXCLUDED, N_FOUND, PlainFaiss, likes_of, measure, model_of
from services.collaborative_source import InMemoryCollaborativeSource

N_ITEMS = 1500


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the command has it; on a busy machine several wait for each other."""
    with threadpool_limits(1):
        yield


async def test_plain_faiss_is_set_beside_ours_and_told_with_its_recall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collaborative_search, "N_LISTENERS", 10)
    monkeypatch.setattr(collaborative_search, "N_ROUNDS", 2)
    row = await measure(N_ITEMS, 50, plain=True)
    assert (row.n, row.recall, row.own_recall) == (N_ITEMS, 1.0, 1.0)
    ours, plain = row.plain.split("; ")
    assert ours.startswith("ours: wall ")
    assert ours.endswith("recall 1.0000")
    assert plain.startswith("plain faiss, ")
    assert float(plain.split("recall ")[1]) > 0.9
    assert (await measure(N_ITEMS, 50, plain=False)).plain == ""


async def test_plain_faiss_finds_what_ours_finds_once_it_compares_enough() -> None:
    fitted = model_of(N_ITEMS, 50)
    source, plain = InMemoryCollaborativeSource(fitted), PlainFaiss(fitted)
    likes = likes_of(N_ITEMS, 50)[0]
    listener = source.listener(likes)
    assert listener is not None
    excluded = {*range(1, 1 + N_EXCLUDED)}
    hits = plain.search(listener, excluded, k_factor=64)
    assert len(hits.ids) == N_FOUND
    assert not excluded & set(hits.ids.tolist())
    assert set(hits.ids.tolist()) == set((await source.search(listener, N_FOUND, excluded=excluded)).ids.tolist())
