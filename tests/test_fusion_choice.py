"""What each source weighs: chosen where listeners tell it, left alone where only chance would."""

import numpy as np
import pytest

from core.collaborative import CollaborativeModel, Likes, LinearBlock
from core.fusion import Signals
from core.ports.collaborative import FusionWeights
from training.fusion_choice import Candidates, ItemSignals, K, candidates_of, choose_weights, quality_of

N_ITEMS, DIM = 400, 8


def noise(n: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=n).astype(np.float32)


def listeners(telling: str | None, n: int = 150) -> tuple[list[Candidates], Likes]:
    """Listeners of ten targets among a hundred candidates; the signal ``telling`` is higher for those."""
    found, targets = [], []
    for listener in range(n):
        wanted = np.random.default_rng(listener).choice(100, 10, replace=False)
        signals = {name: noise(100, 7 * listener + place) for place, name in enumerate(("a", "b", "c"))}
        values = {
            "content": signals["a"],
            "collaborative": signals["b"],
            "popularity": signals["c"],
            "same_creator": np.zeros(100, np.float32),
        }
        if telling:
            values[telling][wanted] += 1 if telling == "same_creator" else 3
        found.append(Candidates(np.arange(100), Signals(**values)))
        targets.append(wanted.tolist())
    return found, Likes.of(targets)


def test_where_no_signal_tells_anything_the_defaults_stay() -> None:
    assert choose_weights(*listeners(None)) == FusionWeights()


@pytest.mark.parametrize("telling", ["content", "popularity", "same_creator"])
def test_a_signal_that_tells_weighs_more(telling: str) -> None:
    candidates, targets = listeners(telling)
    chosen = choose_weights(candidates, targets)
    assert getattr(chosen, telling) > getattr(FusionWeights(), telling)
    assert chosen.collaborative == 1.0
    before, after = (quality_of(candidates, targets, weights) for weights in (FusionWeights(), chosen))
    assert after.recall.mean() > before.recall.mean() + 0.1


def test_content_that_only_disturbs_weighs_nothing_and_never_less() -> None:
    chosen = choose_weights(*listeners("collaborative"))
    assert chosen.content == 0.0


def test_the_same_listeners_give_the_same_weights_and_every_step_is_told() -> None:
    told: list[str] = []
    assert choose_weights(*listeners("content"), tell=told.append) == choose_weights(*listeners("content"))
    assert told[0].startswith("fusion, 1 of 9 at most: content ")


def test_a_list_with_fewer_candidates_than_places_ends_with_empty_ones() -> None:
    one = np.ones(3, np.float32)
    few = Candidates(
        np.array([7, 8, 9]),
        Signals(content=np.array([1, 3, 2], np.float32), collaborative=one, popularity=one, same_creator=one),
    )
    assert few.top(FusionWeights(), 5).tolist() == [8, 9, 7, -1, -1]


# --- the candidates of a listener ---


def a_model() -> CollaborativeModel:
    vectors = np.random.default_rng(1).normal(size=(N_ITEMS, DIM)).astype(np.float32)
    return CollaborativeModel([LinearBlock.of(vectors, vectors)], (1.0,), np.ones(N_ITEMS))


def some_items() -> ItemSignals:
    vectors = np.random.default_rng(2).normal(size=(N_ITEMS, DIM)).astype(np.float32)
    creators = np.arange(N_ITEMS) // 2
    creators[:4] = -1
    return ItemSignals(
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.arange(N_ITEMS, dtype=np.float32), creators
    )


def test_candidates_are_the_best_of_content_and_of_the_model_without_what_is_liked() -> None:
    model, items, likes = a_model(), some_items(), Likes.of([[10, 20, 30, 40], [2], []])
    found = list(candidates_of(model, likes, items))
    assert len(found) == 3
    content = np.sort(items.vectors @ items.vectors[[10, 20, 30, 40]].T, axis=1)[:, -3:].mean(axis=1)
    for scores in (content, model.scores(likes)[0]):
        best = [item for item in np.argsort(-scores).tolist() if item not in {10, 20, 30, 40}][:300]
        assert set(best) <= set(found[0].items.tolist())
    assert not {10, 20, 30, 40} & set(found[0].items.tolist())
    assert found[0].signals.content == pytest.approx(content[found[0].items], abs=1e-6)
    assert found[0].signals.popularity.tolist() == found[0].items.tolist()
    assert len(found[2].top(FusionWeights(), K)) == K


def test_the_creators_of_what_is_liked_are_known_again_and_nobody_is_no_creator() -> None:
    liked_ten, liked_two = list(candidates_of(a_model(), Likes.of([[10], [2]]), some_items()))
    assert set(liked_ten.items[liked_ten.signals.same_creator > 0].tolist()) <= {11}
    assert liked_two.signals.same_creator.sum() == 0


def test_who_likes_nearly_everything_has_few_candidates() -> None:
    [found] = candidates_of(a_model(), Likes.of([range(N_ITEMS - 1)]), some_items())
    assert found.items.tolist() == [N_ITEMS - 1]
