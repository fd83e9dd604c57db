"""Explanations without a model: true to the evidence, in three languages, always 2 to 6 groups."""

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.catalogue_profile import Words, load_profile
from config.prompt_texts import load_prompt_texts
from core.explanation import Explainer
from models.catalogue import Item
from models.recommendation import Candidate, Discovery, Evidence, Group, Pick, RecommendationType
from tests.support.builders import make_item

PROFILE, TEXTS = load_profile("songs"), load_prompt_texts()
EXPLAINER = Explainer(PROFILE, TEXTS)
LOCALES = ("ko", "ja", "en")
LETTERS = {"ko": "[가-힣]", "ja": "[ぁ-ヿ一-鿿]", "en": "[A-Za-z]"}

LIKED = make_item(1, title="Good Day", creator="IU", genres=("ballad",), moods=("bright",))


def candidate(
    item_id: int = 2,
    *,
    kind: RecommendationType = RecommendationType.SIMILAR,
    genres: Sequence[str] = ("ballad",),
    shared_genres: Sequence[str] = (),
    shared_moods: Sequence[str] = (),
    near: Sequence[Item] = (),
    similarity: float = 0.8,
    same_creator: bool = False,
    creator: str | None = "Newcomer",
    discovery: Discovery | None = None,
) -> Candidate:
    return Candidate(
        item=make_item(item_id, title=f"Pick {item_id}", creator=creator, genres=genres, moods=shared_moods),
        score=1 / item_id,
        kind=kind,
        evidence=Evidence(
            similarity=similarity,
            near=tuple(near),
            near_similarity=(similarity,) * len(near),
            shared_genres=tuple(shared_genres),
            shared_moods=tuple(shared_moods),
            same_creator=same_creator,
            discovery=discovery,
        ),
    )


# --- reasons ---


@pytest.mark.parametrize(
    ("given_", "reason"),
    [
        (
            candidate(near=[LIKED], shared_genres=["ballad"]),
            "Close to “Good Day” by IU, which you like; also ballad",
        ),
        (
            candidate(near=[LIKED], shared_moods=["bright"]),
            "Close to “Good Day” by IU, which you like; the same bright mood",
        ),
        (candidate(near=[LIKED]), "Close to “Good Day” by IU, which you like"),
        (candidate(same_creator=True, creator="IU"), "More from IU, whom you like"),
        (
            candidate(same_creator=True, creator="IU", near=[LIKED]),
            "More from IU, close to “Good Day”, which you like",
        ),
        (candidate(shared_genres=["ballad"]), "A genre among your likes: ballad"),
        (candidate(shared_moods=["calm"]), "A mood of your likes: calm"),
        (candidate(shared_genres=["ballad"], shared_moods=["calm"]), "A genre and a mood of your likes: ballad, calm"),
        (
            candidate(kind=RecommendationType.HIDDEN_GEM, near=[LIKED], shared_genres=["ballad"]),
            "A lesser-known find, close to “Good Day” by IU, which you like",
        ),
        (
            candidate(kind=RecommendationType.CROSSOVER, genres=["metal"], near=[LIKED]),
            "Another genre than your likes, yet close to “Good Day” by IU",
        ),
        (
            candidate(near=[LIKED], shared_genres=["ballad"], discovery=Discovery.NEW_CREATOR),
            "A new artist for you, close to “Good Day” by IU, which you like",
        ),
        (
            candidate(kind=RecommendationType.COLLABORATIVE, near=[LIKED], shared_genres=["ballad"]),
            "Loved by people whose likes resemble yours",
        ),
        (
            candidate(kind=RecommendationType.POPULAR, genres=["k-pop"]),
            "Popular k-pop, a good place to start",
        ),
        (candidate(kind=RecommendationType.POPULAR, genres=[]), "Popular, a good place to start"),
        (candidate(genres=[]), "Something new beside your likes"),
    ],
)
def test_a_reason_says_what_the_evidence_holds(given_: Candidate, reason: str) -> None:
    assert EXPLAINER.reason(given_, "en") == reason


def test_korean_and_japanese_reasons_read_naturally_with_any_name() -> None:
    close = candidate(near=[replace(LIKED, creator_local="아이유", titles={"ko": "좋은 날", "ja": "いい日"})])
    assert EXPLAINER.reason(close, "ko") == "좋아하시는 아이유의 ‘좋은 날’ 같은 느낌의 노래"
    assert EXPLAINER.reason(close, "ja") == "お好きなIUの「いい日」に近い曲"


def test_a_like_that_is_far_away_is_not_called_close() -> None:
    far = candidate(near=[LIKED], similarity=0.05, shared_genres=["ballad"])
    assert EXPLAINER.reason(far, "en") == "A genre among your likes: ballad"


def test_what_is_close_to_an_interest_is_not_called_close_to_each_like_in_it() -> None:
    between = candidate(near=[LIKED], similarity=0.8, shared_genres=["ballad"])
    between = replace(between, evidence=replace(between.evidence, near_similarity=(0.39,)))
    assert EXPLAINER.reason(between, "en") == "A genre among your likes: ballad"
    apart = replace(between, evidence=replace(between.evidence, similarity=0.3, near_similarity=(0.4,)))
    assert EXPLAINER.reason(apart, "en") == "Close to “Good Day” by IU, which you like; also ballad"


def test_a_genre_that_is_not_shared_is_not_claimed_of_the_likes() -> None:
    assert "ballad" not in EXPLAINER.reason(candidate(genres=["ballad"], near=[LIKED]), "en")


def test_a_creator_without_a_name_leaves_no_gap() -> None:
    nameless = replace(LIKED, creator=None)
    assert EXPLAINER.reason(candidate(near=[nameless]), "en") == "Close to “Good Day”, which you like"
    assert EXPLAINER.reason(candidate(near=[nameless]), "ko") == "좋아하시는 ‘Good Day’ 같은 느낌의 노래"


def test_names_with_braces_and_control_characters_are_only_text() -> None:
    strange = replace(LIKED, titles={"en": "{item}\n\u202e{0.__class__}" + "x" * 500}, creator="%s\x00")
    reason = EXPLAINER.reason(candidate(near=[strange]), "en")
    assert "{item} {0.__class__}" in reason
    assert reason.isprintable()
    assert len(reason) < 160


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("kind", list(RecommendationType))
@pytest.mark.parametrize("near", [(), (LIKED,)])
@pytest.mark.parametrize("shared", [(), ("ballad",)])
@pytest.mark.parametrize("same_creator", [False, True])
def test_every_kind_has_a_sentence_in_every_locale(
    locale: str, kind: RecommendationType, near: tuple[Item, ...], shared: tuple[str, ...], same_creator: bool
) -> None:
    reason = EXPLAINER.reason(
        candidate(kind=kind, near=near, shared_genres=shared, shared_moods=shared, same_creator=same_creator), locale
    )
    assert re.search(LETTERS[locale], reason)
    assert not re.search(r"[{}]", reason)
    if not near:
        assert "Good Day" not in reason
    if not same_creator:
        assert "Newcomer" not in reason


def test_the_words_of_the_domain_come_from_the_profile() -> None:
    words = {
        "en": Words(item="game", items="games", creator="studio"),
        "ko": Words(item="게임", items="게임", creator="제작사"),
    }
    games = Explainer(PROFILE.model_copy(update={"words": words}), TEXTS)
    plain = candidate(genres=[])
    assert games.reason(plain, "ko") == "취향 곁에서 새롭게 만나는 게임"
    shown = games.explain([candidate(number, same_creator=True) for number in range(2, 8)], [LIKED], "ko")
    assert shown.groups[0].tagline == "좋아하시는 제작사의 다른 게임"
    assert (
        games.reason(candidate(kind=RecommendationType.POPULAR, genres=[]), "ja")
        == "はじめの一歩にぴったりの人気のgame"
    )


def test_no_phrase_names_a_domain() -> None:
    for texts in TEXTS.locales.values():
        told = " ".join(texts.phrases.model_dump().values())
        assert not re.search(r"song|music|artist|노래|가수|음악|曲|歌|アーティスト", told)
    assert not re.search(r"song|music|artist", TEXTS.instructions)


# --- groups ---


def assert_groups(groups: Sequence[Group], candidates: Sequence[Candidate]) -> None:
    shown = [pick.candidate.item.item_id for group in groups for pick in group.picks]
    assert sorted(shown) == sorted(each.item.item_id for each in candidates)
    assert min(2, len(candidates)) <= len(groups) <= 6
    assert all(group.label and group.tagline and group.picks for group in groups)


def test_shelves_follow_the_evidence_and_the_best_candidate_s_comes_first() -> None:
    candidates = [
        candidate(2, kind=RecommendationType.GENRE, shared_genres=["ballad"]),
        candidate(3, kind=RecommendationType.HIDDEN_GEM, shared_genres=["ballad"]),
        candidate(4, kind=RecommendationType.ARTIST, same_creator=True),
        candidate(5, kind=RecommendationType.HIDDEN_GEM, shared_genres=["ballad"]),
        candidate(6, kind=RecommendationType.GENRE, shared_genres=["ballad"]),
        candidate(7, kind=RecommendationType.ARTIST, same_creator=True),
        candidate(8, kind=RecommendationType.CROSSOVER, genres=["metal"]),
    ]
    groups = EXPLAINER.explain(candidates, [LIKED], "en").groups
    assert [(group.label, [pick.candidate.item.item_id for pick in group.picks]) for group in groups] == [
        ("Your ballad shelf", [2, 6]),
        ("Hidden gems", [3, 5]),
        ("From those you love", [4, 7]),
        ("More for you", [8]),
    ]


def test_new_creators_and_what_like_listeners_love_have_shelves_of_their_own() -> None:
    candidates = [
        candidate(2, shared_genres=["ballad"], discovery=Discovery.NEW_CREATOR),
        candidate(3, kind=RecommendationType.COLLABORATIVE),
        candidate(4, kind=RecommendationType.COLLABORATIVE),
        candidate(5, shared_genres=["ballad"], discovery=Discovery.NEW_CREATOR),
    ]
    groups = EXPLAINER.explain(candidates, [LIKED], "en").groups
    assert [(group.label, [pick.candidate.item.item_id for pick in group.picks]) for group in groups] == [
        ("New to you", [2, 5]),
        ("Loved by people like you", [3, 4]),
    ]


def test_popular_candidates_stand_on_shelves_of_genres() -> None:
    candidates = [
        candidate(number, kind=RecommendationType.POPULAR, genres=[("pop", "rock")[number % 2]])
        for number in range(2, 8)
    ]
    groups = EXPLAINER.explain(candidates, [], "en").groups
    assert [group.label for group in groups] == ["Popular pop", "Popular rock"]


@pytest.mark.parametrize("locale", LOCALES)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(RecommendationType)),
            st.sampled_from(["a", "b", "c", "d", "e", "f", "g"]),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_any_candidates_stand_in_two_to_six_groups_each_once(
    locale: str, drawn: list[tuple[RecommendationType, str, bool]]
) -> None:
    candidates = [
        candidate(number, kind=kind, genres=[genre], shared_genres=[genre] if is_shared else [])
        for number, (kind, genre, is_shared) in enumerate(drawn, start=2)
    ]
    outcome = EXPLAINER.explain(candidates, [LIKED], locale)
    assert_groups(outcome.groups, candidates)
    assert outcome == EXPLAINER.explain(candidates, [LIKED], locale)


@given(st.lists(st.integers(1, 5), max_size=10), st.integers(0, 9))
def test_arranging_loses_no_pick(sizes: list[int], n_rest: int) -> None:
    numbers = iter(range(2, 100))

    def make_picks(n: int) -> tuple[Pick, ...]:
        return tuple(EXPLAINER.pick(candidate(next(numbers)), "en") for _ in range(n))

    shelves = [Group(label=f"S{place}", tagline="t", picks=make_picks(size)) for place, size in enumerate(sizes)]
    rest = make_picks(n_rest)
    all_picks = [pick for shelf in shelves for pick in shelf.picks] + list(rest)
    groups = EXPLAINER.arrange(shelves, rest, "en")
    assert_groups(groups, [pick.candidate for pick in all_picks])
    assert [group.label for group in groups[:-1]] == [
        shelf.label for shelf in shelves[: len(groups) - 1]
    ] or not shelves


# --- taste ---


def test_the_taste_is_counted_from_the_likes() -> None:
    liked = [
        make_item(1, creator="B", genres=("pop", "dance"), moods=("bright",)),
        make_item(2, creator="A", genres=("rock",), moods=("dark", "bright")),
        make_item(3, creator="A", genres=("rock", "pop")),
        make_item(4, creator=None, genres=("rock",)),
    ]
    taste = EXPLAINER.taste(liked, "en")
    assert taste.preferred_genres == ("rock", "pop", "dance")
    assert taste.preferred_moods == ("bright", "dark")
    assert taste.favorite_creators == ("A", "B")
    assert taste.overall_taste == "You enjoy rock, pop, with A, B among your favorites."


@pytest.mark.parametrize(
    ("liked", "sentence"),
    [
        ([replace(LIKED, creator=None)], "You enjoy ballad."),
        ([replace(LIKED, genres=())], "You enjoy IU."),
        ([replace(LIKED, genres=(), creator=None)], "Your likes cross many styles."),
        ([], "Your taste is still to be discovered: here are widely loved songs of many kinds."),
    ],
)
def test_the_taste_s_sentence_names_what_there_is(liked: list[Item], sentence: str) -> None:
    assert EXPLAINER.taste(liked, "en").overall_taste == sentence


@pytest.mark.parametrize("locale", LOCALES)
def test_a_cold_start_is_explained_in_every_locale(locale: str) -> None:
    candidates = [candidate(number, kind=RecommendationType.POPULAR) for number in range(2, 12)]
    outcome = EXPLAINER.explain(candidates, [], locale)
    assert re.search(LETTERS[locale], outcome.taste.overall_taste)
    assert (outcome.taste.preferred_genres, outcome.taste.favorite_creators) == ((), ())
    assert_groups(outcome.groups, candidates)
