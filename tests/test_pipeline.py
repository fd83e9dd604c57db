"""The pipeline from job to documents, on fakes of its ports and the real stages between them."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from config.catalogue_profile import load_profile
from config.prompt_texts import load_prompt_texts
from core.errors import DependencyUnavailable, LanguageModelFailed
from core.explanation import Explainer
from core.llm_share import arm_of
from core.pipeline import RecommendationPipeline
from core.ports.index import IndexRows, ItemIndex
from core.ports.language_model import Completion, Prompt
from core.ports.results import ProvisionalDocuments, ResultDocuments
from core.question import PipelineConfig
from core.ranking import RankingConfig
from core.reranking import Reranker
from models.catalogue import Interest, Item, Listener
from models.job import Job, Strategy
from services.item_index import InMemoryItemIndex
from tests.support.backend import faults_of
from tests.support.builders import ArrayIndex, make_item
from tests.support.hand_clock import HandClock
from tests.support.scripted_language_model import RecordingObserver
from tests.support.scripted_source import ScriptedSource

SONGS = load_profile("songs")
TEXTS = load_prompt_texts()
CATALOGUE = {
    i: make_item(i, creator=f"Artist {i % 17}", genres=("pop" if i % 2 else "jazz",), popularity=i / 100)
    for i in range(1, 101)
}
VECTORS = {i: [1.0, i / 50 - 1, (i % 7) / 7] for i in CATALOGUE}


class InMemoryCatalogue:
    def __init__(self, items: Mapping[int, Item]) -> None:
        self.active = dict(items)
        self.n_calls = 0

    async def items(self, item_ids: Collection[int]) -> dict[int, Item]:
        self.n_calls += 1
        return {item_id: self.active[item_id] for item_id in item_ids if item_id in self.active}

    async def active_ids(self, item_ids: Collection[int]) -> set[int]:
        return set(item_ids) & set(self.active)

    async def stream(self, batch_size: int = 1000) -> AsyncIterator[Sequence[Item]]:
        yield list(self.active.values())


class InMemoryListeners:
    def __init__(self, *listeners: Listener) -> None:
        self.known = {listener.member_id: listener for listener in listeners}

    async def listener(self, member_id: int) -> Listener:
        return self.known.get(member_id, Listener(member_id=member_id))


class FixedIndex:
    def __init__(self, index: ItemIndex | None) -> None:
        self.index = index

    def current(self) -> ItemIndex:
        if self.index is None:
            raise DependencyUnavailable("index", "not loaded")
        return self.index


class FixedModel:
    """A ``CollaborativeProvider`` whose model a test may change at any time."""

    def __init__(self, source: ScriptedSource | None = None) -> None:
        self.source = source

    def current(self) -> ScriptedSource | None:
        return self.source


class InMemoryAnswers:
    def __init__(self) -> None:
        self.stored: dict[str, ResultDocuments] = {}
        self.is_away = False

    async def get(self, fingerprint: str) -> ResultDocuments | None:
        return self.stored.get(fingerprint)

    async def put(self, fingerprint: str, documents: ResultDocuments, job: Job) -> None:
        if self.is_away:
            raise DependencyUnavailable("redis", "away")
        self.stored[fingerprint] = documents

    @asynccontextmanager
    async def single_flight(self, fingerprint: str) -> AsyncIterator[None]:
        yield


class ScriptedModel:
    """Answers every prompt with the given picks, or fails."""

    def __init__(self, handles: Sequence[int] = (), failure: LanguageModelFailed | None = None) -> None:
        self.handles, self.failure = handles, failure
        self.prompts: list[Prompt] = []

    def name(self, *, deep: bool) -> str:
        return "scripted-deep" if deep else "scripted"

    async def complete(self, prompt: Prompt, *, deep: bool = False) -> Completion:
        self.prompts.append(prompt)
        if self.failure:
            raise self.failure
        picks = [{"h": handle, "r": f"The model likes number {handle}"} for handle in self.handles]
        groups = [{"label": "From the model", "tagline": "As it says", "picks": picks}]
        text = orjson.dumps({"taste": "A taste in words", "groups": groups}).decode()
        return Completion(text=text, model="scripted", prompt_tokens=10, completion_tokens=5)


class House:
    """A pipeline and all that stands around it."""

    def __init__(self, *listeners: Listener, model: ScriptedModel | None = None, **config: Any) -> None:
        self.catalogue = InMemoryCatalogue(CATALOGUE)
        self.index = FixedIndex(ArrayIndex(VECTORS, {i: i / 100 for i in CATALOGUE}, CATALOGUE))
        self.collaborative = FixedModel()
        self.answers = InMemoryAnswers()
        self.observer = RecordingObserver()
        self.progress: list[int] = []
        self.model = model
        explainer = Explainer(SONGS, TEXTS)
        self.pipeline = RecommendationPipeline(
            listeners=InMemoryListeners(*listeners),
            index=self.index,
            catalogue=self.catalogue,
            reranker=Reranker(model, explainer, self.observer, profile=SONGS, texts=TEXTS),
            explainer=explainer,
            answers=self.answers,
            observer=self.observer,
            clock=HandClock(datetime(2026, 11, 21, 20, 0, tzinfo=UTC)),
            profile=SONGS,
            config=PipelineConfig(version="test", **config),
            collaborative=self.collaborative,
        )

    async def recommend(self, job: Job) -> ResultDocuments:
        async def report(progress: int) -> None:
            self.progress.append(progress)

        return await self.pipeline.recommend(job, report)

    async def result(self, job: Job) -> dict[str, Any]:
        return dict(orjson.loads((await self.recommend(job)).result))

    async def offered(self, job: Job) -> list[dict[str, Any]]:
        """The provisional results that are offered on the way; each says how often the model was asked before."""
        results = []

        async def report(_: int) -> None:
            pass

        async def on_ranked(make: Callable[[], Awaitable[ProvisionalDocuments]]) -> None:
            n_prompts = len(self.model.prompts) if self.model else 0
            results.append({**orjson.loads((await make()).result), "n_prompts": n_prompts})

        await self.pipeline.recommend(job, report, on_ranked)
        return results


JOB = Job(job_id="j", member_id=7, favorite_item_ids=(1, 2, 3), locale="en")


async def test_a_job_becomes_a_result_without_anything_the_member_has() -> None:
    listener = Listener(member_id=7, seen_ids=frozenset({10, 11}), disliked_ids=frozenset({12}))
    result = await House(listener).result(JOB)
    assert faults_of(result, {1, 2, 3, 10, 11, 12}, set(CATALOGUE)) == []
    assert len(result["candidates"]) == 50
    assert sum(len(group["songs"]) for group in result["groups"]) == 20
    assert all(candidate["reason"] for candidate in result["candidates"])


async def test_the_catalogue_is_asked_once_per_job() -> None:
    house = House()
    await house.recommend(JOB)
    assert house.catalogue.n_calls == 1


async def test_progress_only_rises() -> None:
    house = House()
    await house.recommend(JOB)
    assert house.progress == sorted(house.progress)
    assert house.progress


async def test_without_favourites_in_the_job_the_members_own_likes_count() -> None:
    listener = Listener(member_id=7, interests=(Interest(4), Interest(5)), seen_ids=frozenset({4, 5}))
    view = orjson.loads((await House(listener).recommend(replace(JOB, favorite_item_ids=()))).cached_view)
    assert view["favorite_song_ids"] == [4, 5]


async def test_a_job_that_names_favourites_still_leaves_out_what_the_member_has() -> None:
    listener = Listener(member_id=7, interests=(Interest(4),), seen_ids=frozenset({4}))
    result = await House(listener).result(JOB)
    assert 4 not in {candidate["song_id"] for candidate in result["candidates"]}


async def test_of_many_favourites_in_a_job_the_model_is_shown_the_newest() -> None:
    model, likes = ScriptedModel([1]), tuple(Interest(item, 1.0, float(item)) for item in range(40, 0, -1))
    house = House(Listener(member_id=7, interests=likes, seen_ids=frozenset(range(1, 41))), model=model)
    await house.recommend(replace(JOB, favorite_item_ids=tuple(range(1, 41))))
    (prompt,) = model.prompts
    shown = re.findall(r"Title (\d+)", prompt.user.split("<likes>")[1])
    assert shown == [str(item) for item in range(40, 10, -1)]


async def test_unknown_liked_ids_are_counted_and_ignored() -> None:
    house = House()
    result = await house.result(replace(JOB, favorite_item_ids=(1, 2, 900, 901)))
    assert house.observer.counts["unknown"] == 2
    assert faults_of(result, {1, 2}, set(CATALOGUE)) == []


async def test_a_listener_without_likes_is_served_from_popularity() -> None:
    result = await House().result(replace(JOB, favorite_item_ids=()))
    assert {candidate["recommendation_type"] for candidate in result["candidates"]} == {"popular"}
    assert faults_of(result, set(), set(CATALOGUE)) == []


async def test_a_song_deactivated_since_the_index_was_loaded_is_gone() -> None:
    house = House()
    first = await house.result(JOB)
    gone = first["candidates"][0]["song_id"]
    del house.catalogue.active[gone]
    assert gone not in {candidate["song_id"] for candidate in (await house.result(JOB))["candidates"]}


async def test_top_k_bounds_the_candidates_and_with_them_the_groups() -> None:
    result = await House().result(replace(JOB, top_k=5))
    assert len(result["candidates"]) == 5
    assert sum(len(group["songs"]) for group in result["groups"]) == 5


async def test_a_huge_top_k_is_cut_to_the_setting() -> None:
    assert len((await House(max_top_k=60).result(replace(JOB, top_k=10**12)))["candidates"]) == 60


@pytest.mark.parametrize(("locale", "used"), [("ja", "ja"), ("42", "ko"), (None, "ko"), ("EN", "ko")])
async def test_an_unknown_locale_means_the_default_one(locale: str | None, used: str) -> None:
    assert (await House().result(replace(JOB, locale=locale)))["locale"] == used


async def test_the_date_is_that_of_the_sites_time_zone() -> None:
    assert (await House().result(JOB))["generated_date"] == "2026-11-22"
    assert (await House(time_zone="UTC").result(JOB))["generated_date"] == "2026-11-21"


async def test_an_unchanged_listener_costs_no_second_llm_call() -> None:
    model = ScriptedModel([3, 1, 2])
    house = House(model=model)
    first = await house.recommend(JOB)
    second = await house.recommend(replace(JOB, job_id="k", source="login"))
    assert second == first
    assert len(model.prompts) == 1
    assert (house.observer.counts["miss"], house.observer.counts["hit"]) == (1, 1)


async def test_the_same_likes_in_another_order_or_twice_are_the_same_question() -> None:
    model = ScriptedModel([3, 1, 2])
    house = House(model=model)
    for favorites in ((1, 2, 3), (3, 2, 1), (1, 2, 3, 3)):
        await house.recommend(replace(JOB, favorite_item_ids=favorites))
    assert len(model.prompts) == 1


async def test_an_answer_that_cannot_be_kept_is_given_all_the_same() -> None:
    house = House()
    house.answers.is_away = True
    assert faults_of(await house.result(JOB), {1, 2, 3}, set(CATALOGUE)) == []
    assert house.answers.stored == {}


async def test_a_changed_like_is_a_new_question() -> None:
    model = ScriptedModel([1])
    house = House(model=model)
    await house.recommend(JOB)
    await house.recommend(replace(JOB, favorite_item_ids=(1, 2)))
    assert len(model.prompts) == 2


async def test_the_models_picks_and_words_are_in_the_result_and_titles_are_the_catalogues() -> None:
    result = await House(model=ScriptedModel([5, 9]), group_items=4).result(JOB)
    chosen = [song for group in result["groups"] for song in group["songs"] if "model likes" in song["reason"]]
    assert {song["reason"] for song in chosen} == {"The model likes number 5", "The model likes number 9"}
    assert all(song["title_en"] == CATALOGUE[song["song_id"]].titles["en"] for song in chosen)
    assert (result["model"], result["usage"]["llm_calls"], result["degraded"]) == ("scripted", 1, False)


async def test_a_failing_model_degrades_the_result_and_nothing_else() -> None:
    failing = House(model=ScriptedModel(failure=LanguageModelFailed("timeout")))
    plain = await House().result(JOB)
    result = await failing.result(JOB)
    assert (result["degraded"], result["degraded_reason"]) == (True, "timeout")
    assert result["groups"] == plain["groups"]
    assert result["candidates"] == plain["candidates"]


async def test_the_fast_strategy_asks_no_model_and_is_not_degraded() -> None:
    model = ScriptedModel([1])
    result = await House(model=model).result(replace(JOB, strategy=Strategy.FAST))
    assert model.prompts == []
    assert (result["degraded"], result["model"]) == (False, "offline")


async def test_an_index_that_is_not_loaded_is_a_dependency_away() -> None:
    house = House()
    house.index.index = None
    with pytest.raises(DependencyUnavailable):
        await house.recommend(JOB)


async def test_an_index_without_items_is_a_dependency_away_and_no_empty_result() -> None:
    house = House()
    house.index.index = ArrayIndex({})
    with pytest.raises(DependencyUnavailable, match="holds no item"):
        await house.recommend(JOB)


async def test_a_member_who_has_everything_gives_an_empty_result_and_no_llm_call() -> None:
    model = ScriptedModel([1])
    result = await House(Listener(member_id=7, seen_ids=frozenset(CATALOGUE)), model=model).result(JOB)
    assert (result["groups"], result["candidates"], model.prompts) == ([], [], [])


async def test_an_emptied_catalogue_gives_an_empty_result_and_no_llm_call() -> None:
    model = ScriptedModel([1])
    house = House(model=model)
    house.catalogue.active.clear()
    result = await house.result(JOB)
    assert (result["groups"], result["candidates"], model.prompts) == ([], [], [])


async def test_the_same_job_gives_the_same_result() -> None:
    assert (await House().recommend(JOB)).result == (await House().recommend(JOB)).result


# --- with a collaborative model ---

# Ids that the index does not hold, and one that it does, far from what is liked.
GOES_WITH_1 = ScriptedSource({90: 9.0, 500: 8.0, 10: 7.0}, knows={1})


async def test_a_song_that_others_like_too_rises_and_one_of_an_unknown_id_does_not_appear() -> None:
    house = House()
    before = [each["song_id"] for each in (await house.result(JOB))["candidates"]]
    house.collaborative.source = GOES_WITH_1
    result = await house.result(JOB)
    after = [each["song_id"] for each in result["candidates"]]
    assert after.index(90) < (before.index(90) if 90 in before else len(before))
    assert faults_of(result, {1, 2, 3}, set(CATALOGUE)) == []
    assert all(0 <= each["match_score"] <= 100 for each in result["candidates"])


async def test_the_model_is_asked_about_all_likes_by_their_weights() -> None:
    source = ScriptedSource({}, knows=())
    house = House(Listener(member_id=7, interests=(Interest(4, 0.5), Interest(900))))
    house.collaborative.source = source
    await house.recommend(replace(JOB, favorite_item_ids=()))
    assert source.asked == [{4: 0.5, 900: 1.0}]


async def test_what_the_member_has_is_not_recommended_however_others_like_it() -> None:
    house = House(Listener(member_id=7, seen_ids=frozenset({90}), disliked_ids=frozenset({10})))
    house.collaborative.source = GOES_WITH_1
    assert faults_of(await house.result(JOB), {1, 2, 3, 90, 10}, set(CATALOGUE)) == []


async def test_another_model_is_another_question_and_the_same_one_is_not() -> None:
    model = ScriptedModel([1])
    house = House(model=model)
    versions = []
    for version in (None, "m1", "m1", "m2", None):
        house.collaborative.source = replace(GOES_WITH_1, version=version) if version else None
        versions.append((await house.result(JOB))["versions"]["collaborative"])
    assert versions == ["none", "m1", "m1", "m2", "none"]
    assert len(model.prompts) == 3


async def test_a_job_ends_with_the_model_that_it_began_with() -> None:
    house = House()
    house.collaborative.source = replace(GOES_WITH_1, version="m1")

    async def swap(progress: int) -> None:
        house.collaborative.source = replace(GOES_WITH_1, version="m2")

    documents = await house.pipeline.recommend(JOB, swap)
    assert orjson.loads(documents.result)["versions"]["collaborative"] == "m1"


async def test_a_listener_without_likes_gets_the_same_with_and_without_a_model() -> None:
    cold, house = replace(JOB, favorite_item_ids=()), House()
    without = await house.result(cold)
    house.collaborative.source = GOES_WITH_1
    assert (await house.result(cold))["candidates"] == without["candidates"]


async def test_a_model_that_knows_none_of_the_likes_changes_no_candidate() -> None:
    house = House()
    without = await house.result(JOB)
    house.collaborative.source = replace(GOES_WITH_1, knows={77})
    assert (await house.result(JOB))["candidates"] == without["candidates"]


@given(
    favorites=st.lists(st.integers(1, 120), max_size=15),
    seen=st.frozensets(st.integers(1, 100), max_size=60),
    disliked=st.frozensets(st.integers(1, 100), max_size=20),
    handles=st.lists(st.integers(-5, 150), max_size=40),
    top_k=st.none() | st.integers(1, 80),
    locale=st.sampled_from(["ko", "ja", "en"]),
    scores=st.none() | st.dictionaries(st.integers(1, 200), st.floats(-9, 9, width=16), max_size=40),
)
async def test_whatever_the_model_answers_the_result_holds_only_eligible_songs_once(
    favorites: list[int],
    seen: frozenset[int],
    disliked: frozenset[int],
    handles: list[int],
    top_k: int | None,
    locale: str,
    scores: dict[int, float] | None,
) -> None:
    listener = Listener(member_id=7, seen_ids=seen, disliked_ids=disliked)
    job = replace(JOB, favorite_item_ids=tuple(favorites), top_k=top_k, locale=locale)
    house = House(listener, model=ScriptedModel(handles))
    house.collaborative.source = None if scores is None else ScriptedSource(scores, knows=range(50))
    result = await house.result(job)
    assert faults_of(result, {*favorites, *seen, *disliked}, set(CATALOGUE)) == []
    assert len(result["candidates"]) == min(top_k or 50, 100 - len({*favorites, *seen, *disliked} & set(CATALOGUE)))


# --- versions of one work ---


def versions_house(titles: Mapping[int, str], *listeners: Listener) -> House:
    """A catalogue of one artist whose songs have these titles; the others keep theirs."""
    house = House(*listeners)
    items = CATALOGUE | {i: make_item(i, title=title, creator="IU", genres=("pop",)) for i, title in titles.items()}
    house.catalogue.active = items
    house.index.index = ArrayIndex(VECTORS, {i: i / 100 for i in items}, items)
    return house


async def test_no_version_of_a_liked_listed_or_refused_song_is_recommended() -> None:
    listener = Listener(member_id=7, seen_ids=frozenset({10}), disliked_ids=frozenset({20}))
    titles = {1: "Palette", 4: "Palette - Remix", 10: "Eight (feat. SUGA)", 11: "Eight", 20: "Ah", 21: "Ah (라이브)"}
    result = await versions_house(titles, listener).result(JOB)
    assert {4, 11, 21}.isdisjoint(candidate["song_id"] for candidate in result["candidates"])
    assert len(result["candidates"]) == 50


async def test_of_versions_of_one_song_one_is_recommended() -> None:
    versions = {i: f"Palette ({i} Remix)" for i in range(4, 98, 4)}
    result = await versions_house(versions).result(replace(JOB, top_k=70))
    assert len(versions.keys() & {candidate["song_id"] for candidate in result["candidates"]}) == 1
    assert len(result["candidates"]) == 70


def with_share(share: float, model: ScriptedModel | None) -> House:
    return House(model=model, llm_share=share, llm_experiment="e")


def favourite_job(member_id: int, strategy: Strategy = Strategy.DEFAULT) -> Job:
    return replace(JOB, member_id=member_id, strategy=strategy)


async def test_only_members_of_the_arm_llm_are_asked_about_and_every_result_tells_its_arm() -> None:
    model = ScriptedModel(range(1, 11))
    house = with_share(0.5, model)
    arms = {member: (await house.result(favourite_job(member)))["arm"] for member in range(1, 21)}
    assert arms == {member: arm_of(member, share=0.5, experiment="e").value for member in arms}
    n_llm = list(arms.values()).count("llm")
    assert 0 < n_llm < len(arms)
    assert len(model.prompts) == n_llm
    assert (house.observer.counts["llm new"], house.observer.counts["ranking new"]) == (n_llm, len(arms) - n_llm)


async def test_a_result_of_the_arm_ranking_is_whole_and_its_version_says_so() -> None:
    result = await with_share(0.0, ScriptedModel(range(1, 11))).result(JOB)
    assert (result["arm"], result["model"], result["degraded"], result["usage"]["llm_calls"]) == (
        "ranking", "offline", False, 0,
    )  # fmt: skip
    assert (result["versions"]["arm"], result["versions"]["model"]) == ("ranking", "offline")
    assert sum(len(group["songs"]) for group in result["groups"]) == 20


@pytest.mark.parametrize("share", [0.0, 1.0])
async def test_jobs_for_which_nobody_would_ask_the_model_are_of_no_arm(share: float) -> None:
    fast = await with_share(share, ScriptedModel(range(1, 11))).result(favourite_job(7, Strategy.FAST))
    without_model = await with_share(share, None).result(JOB)
    assert (fast["arm"], without_model["arm"]) == ("none", "none")


async def test_a_job_whose_call_failed_stays_in_its_arm_and_is_counted_as_degraded() -> None:
    house = with_share(1.0, ScriptedModel(failure=LanguageModelFailed("timeout")))
    result = await house.result(JOB)
    assert (result["arm"], result["degraded_reason"]) == ("llm", "timeout")
    assert house.observer.counts["llm degraded"] == 1


async def test_a_cached_answer_is_not_taken_over_into_the_other_arm() -> None:
    model = ScriptedModel(range(1, 11))
    before, after = with_share(0.0, model), with_share(1.0, model)
    after.answers = before.answers = InMemoryAnswers()
    for house in (before, after):
        house.pipeline._answers = house.answers
    assert (await before.result(JOB))["arm"] == "ranking"
    assert (await before.result(JOB))["arm"] == "ranking"
    assert (await after.result(JOB))["arm"] == "llm"
    assert (before.observer.counts["ranking new"], before.observer.counts["ranking reused"]) == (1, 1)
    assert len(model.prompts) == 1


async def test_a_call_made_elsewhere_is_not_prepared_for_the_arm_ranking() -> None:
    model = ScriptedModel(range(1, 11))
    assert (await with_share(0.0, model).pipeline.prepare(JOB)).asked is None
    assert (await with_share(1.0, model).pipeline.prepare(JOB)).asked is not None


async def test_log_lines_of_a_job_name_its_arm_once_it_is_known() -> None:
    with structlog.contextvars.bound_contextvars(arm=None):
        await with_share(0.0, ScriptedModel(range(1, 11))).recommend(JOB)
        assert structlog.contextvars.get_contextvars()["arm"] == "ranking"
    assert "arm" not in structlog.contextvars.get_contextvars()


# --- two tastes ---


def two_tastes_house(ranking: RankingConfig) -> House:
    """Two genres of 300 songs in a real index: dense around the first one's likes, sparse around the second one's."""
    generator = np.random.default_rng(5)
    centres = np.eye(2, 64, dtype=np.float32)
    noise = generator.normal(size=(2, 300, 64)).astype(np.float32) / 8
    vectors = np.concatenate([centres[0] + 0.4 * noise[0], centres[1] + 1.2 * noise[1]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    items = {i: make_item(i, creator=f"Artist {i}", genres=("metal" if i <= 300 else "ballad",)) for i in range(1, 601)}
    house = House(ranking=ranking)
    house.catalogue.active = items
    rows = IndexRows(
        ids=np.arange(1, 601, dtype=np.int64),
        vectors=vectors,
        popularity=np.full(600, 0.5, np.float32),
        genres=[item.genres for item in items.values()],
        moods=[()] * 600,
        languages=[None] * 600,
        creators=[item.creator for item in items.values()],
        version="v1",
    )
    house.index.index = InMemoryItemIndex(rows, "given-1")
    return house


async def genres_of_two_tastes(ranking: RankingConfig, n_metal: int, n_ballads: int) -> Counter[str]:
    favourites = (*range(1, n_metal + 1), *range(301, 301 + n_ballads))
    result = await two_tastes_house(ranking).result(replace(JOB, favorite_item_ids=favourites))
    return Counter(candidate["genre"] for candidate in result["candidates"])


async def test_a_listener_of_two_tastes_gets_as_much_of_each_as_they_like() -> None:
    by_score = await genres_of_two_tastes(RankingConfig(calibration=0), 6, 6)
    assert by_score["ballad"] <= 5
    balanced = await genres_of_two_tastes(RankingConfig(), 6, 6)
    assert min(balanced["metal"], balanced["ballad"]) >= 15
    mostly_ballads = await genres_of_two_tastes(RankingConfig(), 4, 12)
    assert mostly_ballads["ballad"] > balanced["ballad"]


# --- provisional results ---


async def test_before_the_model_is_asked_the_ranked_list_is_offered_with_reasons_from_the_evidence() -> None:
    listener = Listener(member_id=7, seen_ids=frozenset({10, 11}), disliked_ids=frozenset({12}))
    house = House(listener, model=ScriptedModel(range(1, 21)))
    (provisional,) = await house.offered(JOB)
    assert (provisional["provisional"], provisional["degraded"], provisional["n_prompts"]) == (True, False, 0)
    assert faults_of(provisional, {1, 2, 3, 10, 11, 12}, set(CATALOGUE)) == []
    assert len(provisional["candidates"]) == 50
    assert sum(len(group["songs"]) for group in provisional["groups"]) == 20
    assert not any("model" in candidate["reason"] for candidate in provisional["candidates"])
    assert len(house.model.prompts if house.model else ()) == 1


async def test_it_is_what_a_fast_job_would_get() -> None:
    (provisional,) = await House(model=ScriptedModel(range(1, 21))).offered(JOB)
    fast = await House(model=ScriptedModel()).result(replace(JOB, strategy=Strategy.FAST))
    for part in ("groups", "candidates", "preference", "model", "usage", "generated_date", "locale"):
        assert provisional[part] == fast[part]


async def test_what_is_kept_as_the_answer_is_final() -> None:
    house = House(model=ScriptedModel(range(1, 21)))
    await house.offered(JOB)
    (kept,) = house.answers.stored.values()
    assert orjson.loads(kept.result)["provisional"] is orjson.loads(kept.cached_view)["provisional"] is False
    assert "The model likes" in kept.result.decode()


async def test_top_k_bounds_a_provisional_result_too() -> None:
    (provisional,) = await House(model=ScriptedModel()).offered(replace(JOB, top_k=5))
    assert len(provisional["candidates"]) == 5
    assert sum(len(group["songs"]) for group in provisional["groups"]) == 5


async def test_an_answer_that_is_known_needs_no_provisional_one() -> None:
    house = House(model=ScriptedModel(range(1, 21)))
    assert len(await house.offered(JOB)) == 1
    assert await house.offered(replace(JOB, job_id="k")) == []


@pytest.mark.parametrize(
    "house",
    [House(), House(model=ScriptedModel(), llm_share=0.0)],
    ids=["no model is configured", "the member's arm is the ranking"],
)
async def test_where_no_model_is_asked_nothing_provisional_is_offered(house: House) -> None:
    assert await house.offered(JOB) == []


async def test_a_fast_job_and_one_without_candidates_offer_nothing_provisional() -> None:
    assert await House(model=ScriptedModel()).offered(replace(JOB, strategy=Strategy.FAST)) == []
    house = House(model=ScriptedModel())
    house.catalogue.active.clear()
    assert await house.offered(JOB) == []


async def test_new_artists_are_a_share_of_the_result_though_all_are_new() -> None:
    house = two_tastes_house(RankingConfig(discovery_share=0.2))
    result = await house.result(replace(JOB, favorite_item_ids=(*range(1, 7), *range(301, 307))))
    is_new = ["discovery:new_creator" in candidate["matched_criteria"] for candidate in result["candidates"]]
    assert len(is_new) == 50
    assert 5 <= sum(is_new) <= 10
    assert 1 <= sum(is_new[:20]) <= 4
