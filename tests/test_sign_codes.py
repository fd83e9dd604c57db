"""Signs of vectors: what they keep, and what a query makes of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ports.arrays import Floats
from services.recall_sample import N_TRUE, Nearest, RecallSample, interests
from services.schema import N_CODES
from services.sign_codes import Question, SignCoder
from tests.support.clustered import clustered_rows

words = st.lists(st.integers(0, 2**64 - 1), min_size=N_CODES, max_size=N_CODES)


def ranks(coder: SignCoder, rows: Floats, query: Floats) -> list[int]:
    question = coder.question(query)
    distances = [question.distance(code) for code in coder.codes(rows)]
    places: list[int] = np.argsort(distances, kind="stable").tolist()
    return places


@given(signs=words, twos=words, ones=words, code=words)
def test_a_distance_is_the_weight_of_all_signs_that_differ(
    signs: list[int], twos: list[int], ones: list[int], code: list[int]
) -> None:
    differing = [sign ^ word for sign, word in zip(signs, code, strict=True)]
    expected = 0
    for place in range(64 * N_CODES):
        differs, two, one = ((words[place // 64] >> place % 64) & 1 for words in (differing, twos, ones))
        expected += differs * (2 * two + one)
    assert Question(signs, twos, ones).distance(np.array(code, dtype=np.uint64)) == expected


@pytest.mark.parametrize("dim", [3, 64, 100, 128, 256, 300])
def test_any_number_of_dimensions_has_codes_of_256_signs(dim: int) -> None:
    rows = clustered_rows(400, dim)
    coder = SignCoder.fit(rows, dim)
    codes = coder.codes(rows)
    assert codes.shape == (400, N_CODES)
    assert codes.dtype == np.uint64
    assert coder.question(rows[0]).distance(codes[0]) == 0


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_coder_is_made_of_next_to_nothing_too(n: int) -> None:
    coder = SignCoder.fit(clustered_rows(2, 64)[:n], 64)
    rows = clustered_rows(50, 64, seed=2)
    assert coder.question(rows[7]).distance(coder.codes(rows)[7]) == 0


def test_a_coder_that_was_stored_makes_the_same_codes() -> None:
    rows = clustered_rows(300, 64)
    coder = SignCoder.fit(rows, 64)
    again = SignCoder.read(coder.write())
    np.testing.assert_array_equal(again.codes(rows), coder.codes(rows))
    assert again.question(rows[3]) == coder.question(rows[3])


def test_the_same_vectors_make_the_same_coder() -> None:
    rows = clustered_rows(300, 100)
    assert SignCoder.fit(rows, 100).write() == SignCoder.fit(rows.copy(), 100).write()


def test_what_all_vectors_share_does_not_blur_the_signs() -> None:
    leaning = clustered_rows(2000, 64) * np.float32(0.3) + np.float32(1)
    leaning /= np.linalg.norm(leaning, axis=1, keepdims=True)
    coder = SignCoder.fit(leaning, 64)
    true = set(np.argsort(-(leaning @ leaning[5]))[:20].tolist())
    assert len(true & set(ranks(coder, leaning, leaning[5])[:80])) == 20


def test_far_more_true_neighbours_are_among_the_first_than_by_plain_signs() -> None:
    rows = clustered_rows(3000, 64, size=500)
    query = interests(rows[:1], rows[1:2], rows[2:3])[2]
    true = set(np.argsort(-(rows @ query))[:100].tolist())
    ours = set(ranks(SignCoder.fit(rows, 64), rows, query)[:300])
    plain = set(np.argsort(-((rows >= 0) == (query >= 0)).sum(axis=1), kind="stable")[:300].tolist())
    assert len(true & ours) >= 95
    assert len(true & ours) > len(true & plain)


# --- the sample that recall is measured by ---


@given(n=st.integers(1, 40), page=st.integers(1, 13))
def test_neighbours_found_page_by_page_are_those_of_all_at_once(n: int, page: int) -> None:
    rows, queries = clustered_rows(60, 8), clustered_rows(3, 8, seed=2)
    nearest = Nearest(queries, n)
    for start in range(0, len(rows), page):
        nearest.look_at(np.arange(start, min(start + page, 60)), rows[start : start + page])
    expected = np.sort(queries @ rows.T, axis=1)[:, ::-1][:, :n]
    np.testing.assert_allclose(nearest.scores, expected, atol=1e-6)
    np.testing.assert_allclose(np.einsum("qd,qnd->qn", queries, rows[nearest.ids]), expected, atol=1e-6)


def sample_of(rows: Floats) -> RecallSample:
    queries = interests(rows[:4], rows[4:8], rows[8:12])
    nearest = Nearest(queries, N_TRUE)
    nearest.look_at(np.arange(len(rows)), rows)
    return RecallSample(queries, nearest)


def test_recall_is_that_of_the_kind_of_query_that_fares_worst() -> None:
    rows = clustered_rows(500, 16)
    sample = sample_of(rows)
    found = [np.argsort(-(rows @ query))[:200].tolist() for query in sample.queries]
    assert sample.recall(found) == 1
    for query in range(4):
        found[query] = found[query][:100]
    assert sample.recall(found) == pytest.approx(0.5)


def test_of_items_that_tie_at_the_end_any_will_do() -> None:
    rows = clustered_rows(150, 16).repeat(2, axis=0)
    sample = sample_of(rows)
    found = [np.argsort(-(rows @ query), kind="stable")[:200].tolist() for query in sample.queries]
    twins = [[place ^ 1 for place in of_query] for of_query in found]
    assert sample.recall(twins) == 1


def test_a_sample_of_fewer_items_than_are_asked_for_wants_them_all() -> None:
    sample = sample_of(clustered_rows(50, 16))
    assert sample.recall([range(50)] * 12) == 1
    assert sample.recall([range(25)] * 12) < 0.7
