"""What the dashboard reads by HTTP: the catalogue as a whole, members, model versions and dead letters."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from core.catalogue_view import principal_plane
from core.dead_letter_desk import DeadLetterNote
from core.ports.model_store import ModelOrigin, Promotion, StoredVersion
from core.ports.results import ResultDocuments
from models.catalogue import Interest, Listener
from models.job import Job
from tests.support.builders import ArrayIndex
from tests.support.http_app import HttpBench, Unavailable, http_bench

SINCE = datetime(2026, 1, 31, 9, tzinfo=UTC)


@pytest.fixture
async def bench() -> AsyncIterator[HttpBench]:
    async with http_bench() as made:
        yield made


async def kept_for(bench: HttpBench, member_id: int, view: bytes) -> None:
    """As a worker leaves it."""
    job = Job(job_id=f"of-{member_id}", member_id=member_id)
    await bench.results.claim(job, token="w")
    await bench.results.succeed(
        job, ResultDocuments(result=b'{"candidates": []}', cached_view=view, preference=b"{}"), token="w"
    )


def view_of(*candidates: dict[str, object]) -> bytes:
    document = {
        "generated_date": "2026-02-01", "provisional": False, "fingerprint": "f1", "locale": "ja", "groups": [],
        "favorite_song_ids": [], "candidates": candidates,
    }  # fmt: skip
    return json.dumps(document).encode()


# --- the catalogue ---


async def test_the_catalogue_is_counted_by_genre_creator_and_popularity(bench: HttpBench) -> None:
    told = (await bench.client.get("/catalogue")).json()
    assert told["nItems"] == 40
    assert told["genres"] == [{"name": "jazz", "items": 20}, {"name": "pop", "items": 20}]
    assert sum(told["popularity"]) == 40
    assert told["popularity"][0] == 9  # 0.01 to 0.09
    assert [item["itemId"] for item in told["popular"]][:3] == [40, 39, 38]
    assert {"name": "YOASOBI", "items": 1} in told["creators"]


async def test_the_catalogue_is_counted_anew_when_the_index_is_another(bench: HttpBench) -> None:
    await bench.client.get("/catalogue")
    before = bench.showroom.catalogue.active
    smaller = ArrayIndex({1: [1.0, 0.0, 0.0]}, {1: 0.5}, dict(before))
    smaller.version = "v2"
    bench.showroom.index.index = smaller
    assert (await bench.client.get("/catalogue")).json()["nItems"] == 1


async def test_a_map_has_as_many_dots_as_were_asked_for_from_popular_to_not(bench: HttpBench) -> None:
    told = (await bench.client.get("/catalogue/map", params={"n": 5})).json()
    assert len(told["points"]) == 5
    assert {40, 1} <= {point["itemId"] for point in told["points"]}
    assert told == (await bench.client.get("/catalogue/map", params={"n": 5})).json()
    assert {point["genre"] for point in told["points"]} <= {"pop", "jazz"}


async def test_a_dot_has_its_titles_in_every_language_and_its_creator_in_both_scripts(bench: HttpBench) -> None:
    items = bench.showroom.catalogue.active
    items[1] = replace(items[1], titles={"en": "Wobble", "ko": "비틀"}, creator="YENA", creator_local="최예나")
    points = (await bench.client.get("/catalogue/map", params={"n": 40})).json()["points"]
    told = {point["itemId"]: point for point in points}
    assert (told[1]["title"], told[1]["titles"]) == ("비틀", {"ko": "비틀", "en": "Wobble"})
    assert (told[1]["creator"], told[1]["creatorLocal"]) == ("YENA", "최예나")
    assert told[4]["titles"] == dict(items[4].titles)
    assert told[4]["creatorLocal"] is None


async def test_an_empty_index_has_an_empty_map_and_no_counts(bench: HttpBench) -> None:
    bench.showroom.index.index = ArrayIndex({})
    assert (await bench.client.get("/catalogue/map")).json() == {"points": [], "explained": [0.0, 0.0]}
    assert (await bench.client.get("/catalogue")).json()["nItems"] == 0


def test_the_plane_is_the_one_in_which_the_rows_differ_most() -> None:
    along = np.array([[x, 0.0, 0.01 * (-1) ** x] for x in range(10)], dtype=np.float32)
    places, explained = principal_plane(along)
    assert explained[0] > 0.99
    assert np.all(np.diff(places[:, 0]) > 0) or np.all(np.diff(places[:, 0]) < 0)


@given(arrays.arrays(np.float32, st.tuples(st.integers(0, 12), st.integers(1, 5)), elements=st.floats(-1, 1, width=16)))
def test_a_map_stays_within_its_frame_and_is_the_same_twice(vectors: npt.NDArray[np.float32]) -> None:
    places, explained = principal_plane(vectors)
    again, _ = principal_plane(vectors.copy())
    assert places.shape == (len(vectors), 2)
    assert np.abs(places).max(initial=0.0) <= 1.0 + 1e-9
    assert np.array_equal(places, again)
    assert 0.0 <= explained[1] <= explained[0] <= 1.0 + 1e-9


# --- members ---


async def test_active_members_are_told_in_their_order(bench: HttpBench) -> None:
    bench.members.member_ids = [7, 3, 9]
    pages = [(await bench.client.get("/members/active", params={"limit": 2, "offset": at})).json() for at in (0, 2, 9)]
    assert pages == [
        {"memberIds": [7, 3], "nextOffset": 2},
        {"memberIds": [9], "nextOffset": None},
        {"memberIds": [], "nextOffset": None},
    ]


async def test_a_member_is_shown_with_likes_refusals_and_the_newest_list(bench: HttpBench) -> None:
    bench.pages.listeners.known[7] = Listener(
        member_id=7,
        interests=(Interest(1, 1.0, SINCE.timestamp()), Interest(3, 0.5), Interest(999)),
        disliked_ids=frozenset({4}),
    )
    row = {"song_id": 2, "match_score": 81.5, "reason": "Close", "matched_criteria": ["genre:jazz", "source:content"]}
    await kept_for(bench, 7, view_of({**row, "recommendation_type": "similar"}, {"song_id": 999}, {"other": 1}))
    told = (await bench.client.get("/members/7")).json()
    assert [(liked["item"]["itemId"], liked["weight"], liked["since"]) for liked in told["likes"]] == [
        (1, 1.0, "2026-01-31T09:00:00Z"),
        (3, 0.5, None),
    ]
    assert [item["itemId"] for item in told["disliked"]] == [4]
    [shown] = told["newest"]["items"]
    assert (shown["item"]["titles"], shown["score"], shown["type"]) == ({"ja": "夜に駆ける"}, 81.5, "similar")
    assert shown["criteria"] == ["genre:jazz", "source:content"]
    newest = told["newest"]
    assert (newest["generatedDate"], newest["fingerprint"], newest["locale"]) == ("2026-02-01", "f1", "ja")


async def test_of_a_member_whom_nobody_knows_there_is_nothing_to_tell(bench: HttpBench) -> None:
    told = (await bench.client.get("/members/-5")).json()
    assert told == {"memberId": -5, "likes": [], "disliked": [], "newest": None}


async def test_what_another_program_keeps_for_a_member_is_no_list(bench: HttpBench) -> None:
    await kept_for(bench, 7, b'{"groups": "theirs", "candidates": "theirs"}')
    assert (await bench.client.get("/members/7")).json()["newest"] is None


# --- models ---


async def test_versions_are_told_with_their_figures_and_what_they_were_made_of(bench: HttpBench) -> None:
    version = StoredVersion(
        kind="collaborative", version="v2", created_at=SINCE, active=True, previous=False, n_bytes=10,
        metrics={"ndcg": 0.3},
    )  # fmt: skip
    promotion = Promotion(
        kind="collaborative", version="v2", replaced="v1", cause="fit", reason="better", promoted_at=SINCE
    )
    bench.pages.models.kept = [version, replace(version, version="v1", active=False)]
    bench.pages.models.origins["v2"] = ModelOrigin(data_figures='{"members": 3}', data_until=SINCE)
    bench.pages.models.promoted = [promotion]
    told = (await bench.client.get("/models")).json()
    assert [(each["version"], each["active"], each["metrics"]) for each in told["versions"]] == [
        ("v2", True, {"ndcg": 0.3}),
        ("v1", False, {"ndcg": 0.3}),
    ]
    assert told["versions"][0]["dataFigures"] == {"members": 3}
    assert told["versions"][1]["dataUntil"] is None
    assert (told["promotions"][0]["cause"], told["promotions"][0]["replaced"]) == ("fit", "v1")


# --- dead letters ---


def note(letter_id: str, age_s: float | None = 60.0) -> DeadLetterNote:
    return DeadLetterNote(
        letter_id=letter_id, member_id=7, reason="attempts_used_up", code="DEPENDENCY_UNAVAILABLE", error="no answer",
        n_tries=4, n_replays=0, age_s=age_s,
    )  # fmt: skip


async def test_the_oldest_dead_letters_are_listed_with_how_many_there_are(bench: HttpBench) -> None:
    bench.pages.desk.letters = [note("a"), note("b", None), note("c")]
    told = (await bench.client.get("/dead-letters", params={"limit": 2})).json()
    assert told["n"] == 3
    assert [(each["letterId"], each["nTries"], each["ageS"]) for each in told["letters"]] == [
        ("a", 4, 60.0),
        ("b", 4, None),
    ]


async def test_those_that_are_named_are_replayed_and_no_others(bench: HttpBench) -> None:
    bench.pages.desk.letters = [note("a"), note("b")]
    answer = await bench.client.post("/dead-letters/replay", json={"letterIds": ["b", "unknown"]})
    assert answer.json() == {"fates": {"b": "replayed"}}
    assert [each.letter_id for each in bench.pages.desk.letters] == ["a"]


async def test_a_replay_names_its_letters(bench: HttpBench) -> None:
    bodies: list[dict[str, list[str]]] = [{"letterIds": []}, {}, {"letterIds": [""]}]
    for body in bodies:
        assert (await bench.client.post("/dead-letters/replay", json=body)).status_code == 422


# --- who may ask ---


@pytest.mark.parametrize("path", ["/members/active", "/members/7", "/dead-letters"])
async def test_what_tells_of_members_wants_the_key(path: str) -> None:
    async with http_bench(api_key="s3cret") as bench:
        assert (await bench.client.get(path)).status_code == 401
        assert (await bench.client.get(path, headers={"X-API-Key": "s3cret"})).status_code == 200


async def test_what_tells_of_no_member_is_open_and_a_replay_is_not() -> None:
    async with http_bench(api_key="s3cret") as bench:
        for path in ("/catalogue", "/catalogue/map", "/models"):
            assert (await bench.client.get(path)).status_code == 200
        assert (await bench.client.post("/dead-letters/replay", json={"letterIds": ["a"]})).status_code == 401


async def test_a_member_cannot_be_shown_while_the_cache_is_away() -> None:
    async with http_bench(results=Unavailable()) as bench:
        assert (await bench.client.get("/members/7")).status_code == 503
