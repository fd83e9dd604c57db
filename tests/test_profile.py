"""The taste profile: what a listener's likes become."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from core.ports.arrays import Floats
from core.profile import ProfileConfig, TasteProfile, build_profile, interest_weights
from models.catalogue import Interest

DAY_S = 86_400.0


def profile_of(vectors: Floats, weights: Floats | None = None, n_interests: int = 4) -> TasteProfile:
    counts = np.ones(len(vectors), dtype=np.float32) if weights is None else weights
    ids = np.arange(1, len(vectors) + 1, dtype=np.int64)
    return build_profile(ids, vectors, counts, ProfileConfig(n_interests=n_interests))


def around(direction: int, n: int, seed: int) -> Floats:
    noise = np.random.default_rng(seed).normal(0, 0.05, (n, 8)).astype(np.float32)
    noise[:, direction] += 1
    vectors: Floats = noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return vectors


def test_no_likes_are_a_cold_start_and_not_an_error() -> None:
    profile = profile_of(np.zeros((0, 8), dtype=np.float32))
    assert profile.is_cold
    assert profile.centroids.shape == (0, 8)


def test_one_like_is_its_own_direction() -> None:
    vector = around(2, 1, seed=1)
    profile = profile_of(vector)
    np.testing.assert_allclose(profile.centroids, vector, atol=1e-6)
    np.testing.assert_allclose(profile.weights, [1.0])


def test_two_very_different_tastes_stay_two_interests() -> None:
    profile = profile_of(np.vstack([around(0, 6, seed=1), around(5, 6, seed=2)]), n_interests=2)
    assert sorted(np.argmax(profile.centroids, axis=1).tolist()) == [0, 5]
    np.testing.assert_allclose(profile.weights, [0.5, 0.5], atol=1e-6)


def test_the_stronger_taste_comes_first_and_weighs_more() -> None:
    weights = np.array([1] * 6 + [3] * 6, dtype=np.float32)
    profile = profile_of(np.vstack([around(0, 6, seed=1), around(5, 6, seed=2)]), weights, n_interests=2)
    assert int(np.argmax(profile.centroids[0])) == 5
    np.testing.assert_allclose(profile.weights, [0.75, 0.25], atol=1e-6)


def test_items_without_content_and_interests_without_weight_count_for_nothing() -> None:
    vectors = np.vstack([around(1, 2, seed=3), np.zeros((1, 8), dtype=np.float32)])
    profile = profile_of(vectors, np.array([1, 0, 1], dtype=np.float32))
    assert profile.liked_ids.tolist() == [1]


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 30), st.just(6)), elements=st.floats(-1, 1, width=32)),
    st.integers(1, 6),
)
def test_centroids_are_unit_vectors_with_shares_that_fall_and_add_up_to_one(raw: Floats, n_interests: int) -> None:
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    vectors = np.divide(raw, norms, out=np.zeros_like(raw), where=norms > 1e-3)
    profile = profile_of(vectors, n_interests=n_interests)
    again = profile_of(vectors, n_interests=n_interests)
    np.testing.assert_array_equal(profile.centroids, again.centroids)
    assert len(profile.centroids) <= n_interests
    if not profile.is_cold:
        np.testing.assert_allclose(np.linalg.norm(profile.centroids, axis=1), 1, atol=1e-4)
        assert profile.weights.sum() == pytest.approx(1, abs=1e-4)
        assert (np.diff(profile.weights) <= 1e-6).all()


def test_a_like_of_one_half_life_ago_counts_half() -> None:
    now_s = 1_000 * DAY_S
    interests = [Interest(1, occurred_at_s=now_s), Interest(2, occurred_at_s=now_s - 10 * DAY_S), Interest(3)]
    weights = interest_weights(interests, now_s, ProfileConfig(half_life_days=10))
    assert weights == pytest.approx({1: 1.0, 2: 0.5, 3: 1.0})


def test_a_like_dated_in_the_future_counts_once_and_no_more() -> None:
    assert interest_weights([Interest(1, occurred_at_s=500.0)], 100.0, ProfileConfig()) == {1: 1.0}


def test_an_item_liked_and_in_a_playlist_counts_by_its_stronger_interest() -> None:
    weights = interest_weights([Interest(1, weight=0.5), Interest(1, weight=1.0)], 0.0, ProfileConfig())
    assert weights == {1: 1.0}


@pytest.mark.parametrize("wrong", [{"n_interests": 0}, {"half_life_days": 0.0}, {"max_likes": -1}])
def test_a_profile_config_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        ProfileConfig(**wrong)  # type: ignore[arg-type]  # that is the point
