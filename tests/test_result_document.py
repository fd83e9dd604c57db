"""The result, field by field as the backend reads it (CONTRACT.md 2)."""

from dataclasses import replace
from datetime import date
from typing import Any

import orjson
import pytest

from config.catalogue_profile import load_profile
from core.ports.results import ResultDocuments
from core.result_document import (
    DOCUMENT_VERSION,
    Finished,
    encode_provisional,
    encode_result,
    match_score,
    matched_criteria,
)
from models.catalogue import Item
from models.recommendation import (
    Candidate,
    CandidateSource,
    Discovery,
    Evidence,
    Group,
    Pick,
    RecommendationType,
    Reranked,
    TasteSummary,
    TokenUsage,
)

SONGS = load_profile("songs")
COLUMNS = {
    "title_kr": "봄날",
    "title_en": None,
    "title_jp": None,
    "title_yomi": None,
    "artist": "BTS",
    "artist_kr": "방탄소년단",
    "genre": "k-pop, ballad",
    "mood": "calm",
    "tj_number": 48_000,
    "ky_number": None,
    "lyrics_kr": "never part of a result",
}


def candidate(item_id: int, score: float = 0.876) -> Candidate:
    item = Item(item_id=item_id, titles={"ko": "봄날"}, creator="BTS", genres=("k-pop", "ballad"), columns=COLUMNS)
    evidence = Evidence(similarity=score, shared_genres=("ballad",), shared_moods=("calm",), same_creator=True)
    return Candidate(item=item, score=score, kind=RecommendationType.ARTIST, evidence=evidence)


def finished() -> Finished:
    group = Group(label="발라드", tagline="잔잔한 밤", picks=(Pick(candidate=candidate(1), reason="비슷해요"),))
    reranked = Reranked(
        groups=(group,),
        taste=TasteSummary(
            preferred_genres=("ballad",), preferred_moods=("calm",), overall_taste="잔잔함", favorite_creators=("BTS",)
        ),
        model="gpt",
        usage=TokenUsage(n_calls=1, prompt_tokens=2000, completion_tokens=500, cached_tokens=1200, cost_usd=0.0012341),
    )
    return Finished(
        reranked=reranked,
        candidates=[candidate(1), candidate(2, score=0.5)],
        reasons={1: "비슷해요", 2: "같은 장르"},
        liked_ids=[10, 11],
        generated_on=date(2026, 11, 21),
        locale="ko",
        fingerprint="f" * 32,
        versions={"index": "1"},
    )


def documents(what: Finished | None = None) -> ResultDocuments:
    return encode_result(what or finished(), SONGS)


def result(what: Finished | None = None) -> dict[str, Any]:
    return dict(orjson.loads(documents(what).result))


def test_the_head_of_the_result_is_the_contracts() -> None:
    document = result()
    assert document["status"] == "completed"
    assert document["generated_date"] == "2026-11-21"
    assert isinstance(document["message"], str)
    assert document["message"]


def test_a_song_of_a_group_has_the_contracts_fields_first_and_then_ours() -> None:
    (group,) = result()["groups"]
    assert (group["label"], group["tagline"]) == ("발라드", "잔잔한 밤")
    (song,) = group["songs"]
    assert list(song)[:8] == [
        "title_kr",
        "title_en",
        "title_jp",
        "title_yomi",
        "artist",
        "artist_kr",
        "tj_number",
        "ky_number",
    ]
    assert song["tj_number"] == 48_000
    assert song["ky_number"] is None
    assert (song["song_id"], song["reason"], song["rank"], song["match_score"]) == (1, "비슷해요", 1, 87.6)


def test_a_candidate_has_exactly_the_contracts_fields() -> None:
    first, second = result()["candidates"]
    assert set(first) == {
        "song_id",
        "title_kr",
        "title_en",
        "title_jp",
        "title_yomi",
        "artist",
        "artist_kr",
        "genre",
        "mood",
        "tj_number",
        "ky_number",
        "recommendation_type",
        "matched_criteria",
        "match_score",
        "reason",
    }
    assert first["recommendation_type"] == "artist"
    assert first["matched_criteria"] == ["artist:BTS", "genre:ballad", "mood:calm"]
    assert (second["song_id"], second["reason"]) == (2, "같은 장르")


def test_a_discovery_and_all_that_found_a_candidate_are_criteria_too() -> None:
    plain = candidate(1)
    sources = (CandidateSource.CONTENT, CandidateSource.COLLABORATIVE)
    evidence = replace(plain.evidence, discovery=Discovery.NEW_CREATOR, sources=sources)
    assert matched_criteria(replace(plain, evidence=evidence), "en", SONGS) == [
        *matched_criteria(plain, "en", SONGS),
        "discovery:new_creator",
        "source:content",
        "source:collaborative",
    ]


def test_the_likes_that_a_candidate_is_close_to_are_named_in_the_language_of_the_result() -> None:
    liked = (
        Item(item_id=8, titles={"ko": "밤편지", "en": "Through the Night"}, creator="IU"),
        Item(item_id=9, titles={"ko": "좋은 날"}, creator="IU"),
        Item(item_id=10, titles={"ko": "먼 노래"}, creator="IU"),
    )
    near = replace(candidate(1).evidence, near=liked, near_similarity=(0.9, 0.4, 0.39))
    close = replace(candidate(1), evidence=near)
    assert matched_criteria(close, "ko", SONGS) == [
        "artist:BTS",
        "genre:ballad",
        "mood:calm",
        "near:밤편지",
        "near:좋은 날",
    ]
    assert "near:Through the Night" in matched_criteria(close, "en", SONGS)
    told = result(replace(finished(), candidates=[close], reasons={1: "x"}))["candidates"][0]["matched_criteria"]
    assert told == matched_criteria(close, "ko", SONGS)


def test_two_likes_of_one_title_are_named_once() -> None:
    liked = tuple(Item(item_id=item_id, titles={"ko": "봄날"}, creator="BTS") for item_id in (8, 9))
    near = replace(candidate(1), evidence=Evidence(similarity=0.9, near=liked, near_similarity=(0.9, 0.8)))
    assert matched_criteria(near, "ko", SONGS) == ["near:봄날"]


def test_the_cached_view_and_the_preference_have_the_contracts_fields() -> None:
    view = orjson.loads(documents().cached_view)
    assert {"favorite_song_ids", "groups", "candidates", "generated_date"} <= set(view)
    assert view["favorite_song_ids"] == [10, 11]
    assert view["candidates"] == result()["candidates"]
    preference = orjson.loads(documents().preference)
    assert preference == {
        "favorite_song_ids": [10, 11],
        "preference": {
            "preferred_genres": ["ballad"],
            "preferred_moods": ["calm"],
            "overall_taste": "잔잔함",
            "favorite_artists": ["BTS"],
        },
        "generated_date": "2026-11-21",
    }


@pytest.mark.parametrize("locale", ["ko", "ja", "en"])
def test_the_cached_view_says_its_language(locale: str) -> None:
    assert orjson.loads(documents(replace(finished(), locale=locale)).cached_view)["locale"] == locale


def test_what_made_the_result_is_told_beside_it() -> None:
    document = result()
    spent = {"prompt_tokens": 2000, "completion_tokens": 500, "cached_tokens": 1200, "cost_usd": 0.001234}
    assert document["usage"] == {"llm_calls": 1, **spent}
    assert (document["model"], document["degraded"], document["degraded_reason"]) == ("gpt", False, None)
    assert (document["fingerprint"], document["versions"]) == (
        "f" * 32,
        {"index": "1", "document": str(DOCUMENT_VERSION)},
    )


def test_a_cost_that_nobody_knows_is_null_and_not_nothing() -> None:
    priced, unpriced = TokenUsage(n_calls=1, cost_usd=0.5), TokenUsage(n_calls=1, cost_usd=None)
    for usage, told in [(unpriced, None), (priced + unpriced, None), (priced + priced, 1.0), (TokenUsage(), 0)]:
        document = result(replace(finished(), reranked=replace(finished().reranked, usage=usage)))
        assert document["usage"]["cost_usd"] == told


def test_a_degraded_result_says_so_and_why() -> None:
    degraded = replace(finished(), reranked=replace(finished().reranked, degraded="timeout"))
    assert documents(degraded).degraded
    assert (result(degraded)["degraded"], result(degraded)["degraded_reason"]) == (True, "timeout")


def test_provisional_documents_are_those_of_a_result_but_say_what_they_are() -> None:
    provisional = encode_provisional(finished(), SONGS)
    shown, final = orjson.loads(provisional.result), result()
    assert (shown.pop("provisional"), final.pop("provisional")) == (True, False)
    assert shown.pop("message") == "2 recommendations in 1 groups, until the final ones are there"
    assert final.pop("message") == "2 recommendations in 1 groups"
    assert shown == final
    view, final_view = orjson.loads(provisional.cached_view), orjson.loads(documents().cached_view)
    assert (view.pop("provisional"), final_view.pop("provisional")) == (True, False)
    assert view == final_view


@pytest.mark.parametrize(("score", "shown"), [(-0.3, 0.0), (0.0, 0.0), (0.12345, 12.3), (1.0, 100.0), (1.7, 100.0)])
def test_a_match_score_runs_from_0_to_100(score: float, shown: float) -> None:
    assert match_score(candidate(1, score)) == shown


def test_a_candidate_without_anything_in_common_still_has_a_criterion() -> None:
    bare = replace(candidate(3), evidence=Evidence(similarity=0.1), kind=RecommendationType.POPULAR)
    document = result(replace(finished(), candidates=[bare], reasons={3: "x"}))
    assert document["candidates"][0]["matched_criteria"] == ["popular"]
