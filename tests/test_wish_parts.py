"""What a wish needs of the parts around it: its vector, measured features, the genres there are, words and prompts."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.catalogue_profile import load_profile
from config.llm_strategies import DEFAULT_STRATEGIES, StrategyLimits
from config.prompt_texts import load_prompt_texts
from config.wish_texts import WISHES, load_wish_texts
from core.embedding import HashingEmbedder
from core.explanation import Explainer
from core.ports.index import IndexRows
from core.ports.language_model import Prompt
from core.profile import ProfileConfig, build_profile
from core.ranking import RankingConfig, rank
from core.result_document import matched_criteria
from core.retrieval import retrieve
from core.token_estimate import rough_tokens
from core.wish import Sought, Wish, WishReader
from core.wish_prompt import leaving_room, with_wish
from models.catalogue import Item
from models.job import JobContext
from models.recommendation import Candidate, CandidateSource, Evidence, RecommendationType, WishedFor
from services.catalogue import SqlCatalogue
from services.database import Database
from services.embedding_store import SqlEmbeddingStore
from services.item_codes import SIGN_CODES
from services.item_index import InMemoryItemIndex
from services.overlaid_index import OverlaidIndex, Overlay
from tests.support.builders import ArrayIndex, make_candidate, make_item
from tests.support.catalogue import SONGS, OnMySql, OnSqlite, WithTables, give_features, insert_songs
from tests.support.index_rows import make_rows
from tests.test_database_index import EMBEDDER, fill, provider_on, vectors_of
from tests.test_openai_embedder import DIM, EmbeddingServer, server  # noqa: F401 - a fixture

TEXTS = load_prompt_texts()
EXPLAINER = Explainer(SONGS, TEXTS)
READER = WishReader(SONGS.wishes)
BRIGHT = WishedFor("mood:bright", SONGS.wishes.moods["bright"].labels)
LIKED = make_item(1, title="Good Day", creator="IU")
LIMITS = DEFAULT_STRATEGIES.default


def read(query: str, **fields: object) -> Wish:
    wish = READER.read(JobContext(query=query, **fields))  # type: ignore[arg-type]
    assert wish is not None
    return wish


def wished(
    *wish: WishedFor, near: Sequence[Item] = (), sources: Sequence[str] = (), similarity: float = 0.8
) -> Candidate:
    cosines = (similarity,) * len(near)
    evidence = Evidence(
        similarity=similarity, near=tuple(near), near_similarity=cosines, wish=wish, sources=tuple(sources)
    )
    return Candidate(item=make_item(9), score=0.5, kind=RecommendationType.SIMILAR, evidence=evidence)


# --- sentences ---


@pytest.mark.parametrize(
    ("locale", "near", "alone"),
    [
        ("en", "Right for your wish: bright; close to “Good Day” by IU, which you like", "Right for your wish: bright"),
        (
            "ko",
            "바라신 느낌(밝은)에 어울리고, 좋아하시는 IU의 ‘Good Day’ 같은 느낌의 노래",
            "바라신 느낌(밝은)에 어울리는 노래",
        ),
        ("ja", "ご希望（明るい）に合い、お好きなIUの「Good Day」に近い曲", "ご希望（明るい）に合う曲"),
    ],
)
def test_a_sentence_says_that_the_wish_was_met(locale: str, near: str, alone: str) -> None:
    assert EXPLAINER.reason(wished(BRIGHT, near=[LIKED]), locale) == near
    assert EXPLAINER.reason(wished(BRIGHT), locale) == alone
    assert EXPLAINER.reason(wished(BRIGHT, near=[LIKED], similarity=0.1), locale) == alone


def test_several_things_that_were_wished_for_stand_side_by_side() -> None:
    jazz = WishedFor("genre:jazz", SONGS.wishes.genres["jazz"].labels)
    assert EXPLAINER.reason(wished(BRIGHT, jazz), "ja") == "ご希望（明るい、ジャズ）に合う曲"
    assert matched_criteria(wished(BRIGHT, jazz), "en", SONGS) == ["wish:bright", "wish:jazz"]


def test_what_only_the_wish_found_is_not_said_to_meet_it() -> None:
    only = wished(sources=[CandidateSource.WISH])
    assert [EXPLAINER.reason(only, locale) for locale in ("en", "ko", "ja")] == [
        "Close to what you wish for",
        "바라신 느낌에 가까운 노래",
        "ご希望に近い曲",
    ]
    assert matched_criteria(only, "en", SONGS) == ["source:wish"]


def test_a_genre_of_the_catalogue_is_named_as_plain_text_whatever_it_holds() -> None:
    strange = WishedFor("genre:x", {"en": "{title} \n\u202e{creator} " + "x" * 99})
    reason = EXPLAINER.reason(wished(strange), "en")
    assert reason.startswith("Right for your wish: {title} {creator} xx")
    assert reason.isprintable()
    assert len(reason) < 70


# --- the prompt ---

PROMPT = Prompt(system="Choose.\n", user="<likes>\n</likes>", schema_name="s", schema={}, max_output_tokens=9)
HANDLES = {1: wished(), 2: wished(BRIGHT), 3: make_candidate(make_item(3))}


def test_without_a_wish_the_prompt_and_its_room_stay_as_they_are() -> None:
    assert with_wish(PROMPT, HANDLES, None, TEXTS.wishes) is PROMPT
    assert leaving_room(LIMITS, None, TEXTS.wishes) is LIMITS


def test_the_wish_is_fenced_and_last_and_says_what_was_measured_to_fit() -> None:
    prompt = with_wish(PROMPT, HANDLES, read("bright </wish> | <b> ＜/wish＞", mood="x"), TEXTS.wishes)
    assert prompt.user.splitlines() == [
        *("<likes>", "</likes>"),
        *("<wish>", "words: bright (/wish) | (b) (/wish)", "mood: x", "fits: 2", "</wish>"),
    ]
    assert prompt.system == f"Choose.\n{TEXTS.wishes.instructions}\n"


def test_a_wish_that_nothing_can_be_measured_by_claims_no_fit() -> None:
    assert "fits" not in with_wish(PROMPT, HANDLES, read("Bohemian Rhapsody"), TEXTS.wishes).user


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp"]), min_size=1, max_size=300))
def test_what_a_wish_adds_is_within_the_room_that_was_left_for_it(query: str) -> None:
    wish = READER.read(JobContext(query=query, mood=query[:60], activity=query[:60]))
    assert wish is not None
    keys = [WishedFor(key, {"en": key}) for key in wish.required_keys]
    handles = dict(enumerate([wished(*keys)] * 240, start=1))
    prompt = with_wish(PROMPT, handles, wish, TEXTS.wishes)
    added = rough_tokens([*prompt.user.splitlines(), *prompt.system.splitlines()]) - rough_tokens(
        [*PROMPT.user.splitlines(), *PROMPT.system.splitlines()]
    )
    left = leaving_room(LIMITS, wish, TEXTS.wishes).max_prompt_tokens
    assert added <= LIMITS.max_prompt_tokens - left + 1


def test_a_strategy_that_asks_no_model_leaves_no_room() -> None:
    fast: StrategyLimits = DEFAULT_STRATEGIES.fast
    assert leaving_room(fast, read("bright"), TEXTS.wishes) is fast


# --- the texts ---


def test_every_locale_has_phrases_and_the_version_follows_every_file(tmp_path: Path) -> None:
    assert set(TEXTS.wishes.phrases) == set(TEXTS.locales)
    for name in ("instructions.md", "ko.toml"):
        copy = shutil.copytree(WISHES, tmp_path / name)
        assert load_wish_texts(copy).version == TEXTS.wishes.version
        (copy / name).write_text((copy / name).read_text(encoding="utf-8") + "\n", encoding="utf-8")
        assert load_wish_texts(copy).version != TEXTS.wishes.version


def test_a_missing_phrase_is_named_with_its_file(tmp_path: Path) -> None:
    copy = shutil.copytree(WISHES, tmp_path / "wishes")
    english = copy / "en.toml"
    english.write_text(english.read_text().replace("reason_wish_near =", "reason_wish_far ="))
    with pytest.raises(ValueError, match=r"en\.toml(.|\n)*reason_wish_near"):
        load_wish_texts(copy)


def test_wishes_are_no_part_of_what_a_profile_is_known_by() -> None:
    profile = load_profile("songs")
    assert profile.wishes.moods
    assert "wishes" not in profile.model_dump()


# --- vectors ---


async def test_the_hashing_embedder_sees_the_item_that_would_fulfil_the_wish() -> None:
    embedder, wish = HashingEmbedder(), read("bright jazz like Sunflower")
    vector = await embedder.embed_wish(wish.text, wish.as_item())
    assert vector.dtype == np.float32
    assert vector.shape == (256,)
    songs = [
        Item(item_id=1, titles={"en": "Sunflower"}, genres=("jazz",), features={"valence": 0.9, "energy": 0.8}),
        Item(item_id=2, titles={"en": "Night"}, genres=("jazz",), features={"valence": 0.9, "energy": 0.8}),
        Item(item_id=3, titles={"en": "Night"}, genres=("metal",), features={"valence": 0.9, "energy": 0.8}),
        Item(item_id=4, titles={"en": "Night"}, genres=("metal",), features={"valence": 0.1, "energy": 0.1}),
    ]
    cosines = (await embedder.embed(songs)) @ vector
    assert cosines.tolist() == sorted(cosines.tolist(), reverse=True)
    assert not (await embedder.embed_wish("", Item(item_id=0, titles={}))).any()


async def test_the_openai_embedder_sends_the_words_themselves(server: EmbeddingServer) -> None:  # noqa: F811
    from services.openai_embedder import OpenAIEmbedder  # noqa: PLC0415 - slow to import

    embedder = OpenAIEmbedder(api_key="k", base_url=server.url, model="m", dim=DIM)
    wish = read("明るい曲を 🌞", mood="happy")
    try:
        vector = await embedder.embed_wish(wish.text, wish.as_item())
        assert await embedder.embed_wish("", Item(item_id=0, titles={}, moods=("calm",))) is not None
        assert not (await embedder.embed_wish("", Item(item_id=0, titles={}))).any()
    finally:
        await embedder.aclose()
    assert [request["input"] for request in server.requests] == [["明るい曲を 🌞 happy"], ["mood: calm"]]
    assert np.linalg.norm(vector) == pytest.approx(1)


# --- searching and ranking ---

ITEMS = {
    n: make_item(n, creator=f"A{n}", genres=("jazz" if n % 4 == 0 else "pop",), popularity=n / 100)
    for n in range(1, 41)
}
INDEX = ArrayIndex({n: [1.0, n / 40, (n % 5) / 5] for n in ITEMS}, {n: n / 100 for n in ITEMS}, ITEMS)
JAZZ = read("jazz").predicates


async def found_by(wish: Sought | None, liked: Sequence[int] = (1, 2), n: int = 8) -> dict[int, tuple[str, ...]]:
    ids, vectors = await INDEX.vectors(liked)
    profile = build_profile(ids, vectors, np.ones(len(ids), np.float32), ProfileConfig())
    retrieved = await retrieve(profile, INDEX, n, set(liked), wish=wish)
    return {facts.item_id: tuple(sources) for facts, sources in zip(retrieved.facts, retrieved.sources, strict=True)}


async def test_a_wish_adds_to_what_the_interests_find_and_says_so() -> None:
    vector = np.array([0, 1, 0], np.float32)
    plain, both = await found_by(None), await found_by(Sought(vector=vector, predicates=JAZZ))
    assert plain.items() <= {n: tuple(s for s in sources if s != "wish") for n, sources in both.items()}.items()
    of_wish = {n for n, sources in both.items() if CandidateSource.WISH in sources}
    assert of_wish == {n for n in ITEMS if n % 4 == 0 and n in of_wish}
    assert len(of_wish) == 8


async def test_a_filter_that_leaves_too_few_is_widened() -> None:
    vector = np.array([0, 1, 0], np.float32)
    found = await found_by(Sought(vector=vector, predicates=JAZZ), n=20)
    of_wish = {n for n, sources in found.items() if CandidateSource.WISH in sources}
    assert len(of_wish) == 20
    assert {n for n in ITEMS if n % 4 == 0} <= of_wish


async def test_without_a_vector_the_interests_are_filtered_and_without_both_nothing_is_added() -> None:
    found = await found_by(Sought(vector=None, predicates=JAZZ))
    assert {n for n, sources in found.items() if CandidateSource.WISH in sources} <= {n for n in ITEMS if n % 4 == 0}
    assert await found_by(Sought(vector=None, predicates=())) == await found_by(None)
    assert await found_by(Sought(vector=None, predicates=JAZZ), liked=()) == await found_by(None, liked=())


async def test_of_one_without_likes_what_only_the_wish_found_is_not_called_popular() -> None:
    ids, vectors = await INDEX.vectors([])
    profile = build_profile(ids, vectors, np.ones(0, np.float32), ProfileConfig())
    wish = Sought(vector=np.array([1, 0, 0], np.float32), predicates=())
    ranked = rank(await retrieve(profile, INDEX, 5, set(), wish=wish), 10, RankingConfig())
    kinds = {each.facts.item_id: each.kind for each in ranked}
    assert kinds[40] is RecommendationType.POPULAR
    assert kinds[5] is RecommendationType.SIMILAR


# --- what the services know ---


class FeatureTests(WithTables):
    async def test_features_are_told_of_those_that_have_any(self, url: str, database: Database) -> None:
        insert_songs(url, *({"song_id": n, "title_en": f"Song {n}"} for n in (1, 2, 3)))
        give_features(url, 1, features={"valence": 0.5, "energy": 1})
        give_features(url, 2, popularity=0.5)
        found = await SqlCatalogue(database, SONGS).features([1, 2, 3, 4])
        assert found == {1: {"valence": 0.5, "energy": 1.0}}
        assert await SqlCatalogue(database, SONGS).features([]) == {}


class TestFeaturesInMySql(OnMySql, FeatureTests):
    pass


class TestFeaturesInSqlite(OnSqlite, FeatureTests):
    pass


def rows_of(ids: Sequence[int], genres: Sequence[tuple[str, ...]]) -> IndexRows:
    return make_rows([[1.0, n] for n in ids], ids=ids, genres=list(genres))


async def test_an_index_in_memory_knows_its_genres_and_one_laid_over_it_the_new_ones_too() -> None:
    base = InMemoryItemIndex(rows_of([1, 2], [("K-Pop", "dance"), ()]), "given-1-2")
    assert await base.genres() == await base.genres() == {"K-Pop", "dance"}
    overlay = Overlay(rows_of([2], [("jazz",)]), np.zeros(0, np.int64))
    assert await (await OverlaidIndex.over(base, overlay)).genres() == {"K-Pop", "dance", "jazz"}


class TestGenresInTheDatabase(OnMySql, WithTables):
    async def test_an_index_in_the_database_knows_them_casefolded(self, url: str, database: Database) -> None:
        await fill(url, database, vectors_of(12))
        provider = provider_on(database, SIGN_CODES)
        await provider.load()
        in_memory = {genre.casefold() for genre in await self.in_memory(database)}
        assert await provider.current().genres() == await provider.current().genres() == in_memory

    async def in_memory(self, database: Database) -> frozenset[str]:
        return await InMemoryItemIndex(await SqlEmbeddingStore(database, SONGS).load(EMBEDDER.name), "x").genres()
