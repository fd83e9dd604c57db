"""``evaluate --llm``: whether a model's order earns its cost, told apart for a good, a random and a reversed model."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr
from rich.console import Console
from threadpoolctl import threadpool_limits

from config.catalogue_profile import load_profile
from config.llm_strategies import StrategyTable
from config.prompt_texts import load_prompt_texts
from config.settings import Settings
from config.token_price import TokenPrice
from core.errors import ConfigurationError, LanguageModelFailed
from core.evaluation import Interval
from core.explanation import Explainer
from core.item_versions import VersionFinder
from core.ports.language_model import Completion, LanguageModel, Prompt
from core.question import PipelineConfig
from core.ranking import RankingConfig
from core.reranking import Reranker
from services.clock import SystemClock
from services.collaborative_source import InMemoryCollaborativeSource
from services.item_index import InMemoryItemIndex
from services.language_model import OpenAILanguageModel
from tests.support.command import Outcome, run_command
from tests.support.llm_faults import Fault
from tests.support.llm_server import LLMServer, Manner, Question
from tests.support.scripted_language_model import RecordingObserver, ScriptedLanguageModel
from training import uplift
from training.first_stage import Study, items_of, prepare
from training.interaction_files import ItemTable
from training.judge import Judge
from training.kept_answers import Kept, KeptAnswers, open_kept_answers, question_id
from training.uplift import ALONE, CHANCE, FUSED, RANKING, Uplift, ask, estimate, questions_of, report, verdict
from workers.runtime.judge import open_judge

N_GENRES, N_PER_GENRE, N_USERS = 4, 30, 300
K, N_CANDIDATES = 6, 16
SONGS = load_profile("songs")
TEXTS = load_prompt_texts()
PRICE = TokenPrice(input=1.0, output=4.0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who like one genre each, and within it whatever chance gave them: its items can not be told apart."""
    directory, chance = tmp_path_factory.mktemp("dataset"), np.random.default_rng(0)
    rows = ["user_id,item_id"]
    for user in range(N_USERS):
        liked = chance.choice(N_PER_GENRE, 12, replace=False) * N_GENRES + user % N_GENRES
        rows += [f"u{user},i{item}" for item in liked]
    (directory / "interactions.csv").write_text("\n".join(rows), encoding="utf-8")
    items = [f"i{item},Song no {item},Genre {item % N_GENRES}" for item in range(N_GENRES * N_PER_GENRE)]
    (directory / "items.csv").write_text("\n".join(["item_id,title,genre", *items]), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def study(dataset: Path) -> Study:
    with threadpool_limits(1, user_api="blas"):
        return prepare(dataset, "new", n_users=60, budget_s=0)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[KeptAnswers]:
    with open_kept_answers(tmp_path / "answers.db") as answers:
        yield answers


@asynccontextmanager
async def over_http(server: LLMServer) -> AsyncIterator[OpenAILanguageModel]:
    model = OpenAILanguageModel(
        model="tested",
        deep_model="tested",
        api_key=SecretStr(""),
        base_url=server.base_url,
        timeout_s=10,
        max_retries=0,
        max_concurrency=8,
        observer=RecordingObserver(),
        clock=SystemClock(),
    )
    try:
        yield model
    finally:
        await model.aclose()


def truth_of(study: Study) -> Callable[[Question], Collection[int]]:
    """Which handles of a question its listener wants, who is known by what the prompt says that they like."""
    titles = {item_id: item.title("en") for item_id, item in study.items.items()}
    wanted = {
        frozenset(titles[item_id] for item_id in listener.likes): {titles[item_id] for item_id in listener.targets}
        for listener in study.listeners
    }
    assert len(wanted) == len(study.listeners)

    def relevant(question: Question) -> list[int]:
        targets = wanted[frozenset(line.split(" | ")[0] for line in question.likes.values())]
        return [handle for handle, line in question.lines.items() if line.split(" | ")[0] in targets]

    return relevant


def serving(model: LanguageModel, *, price: TokenPrice | None = PRICE) -> Judge:
    strategies = StrategyTable.model_validate({"default": {"n_candidates": N_CANDIDATES, "n_explained": K}})
    reranker = Reranker(
        model, Explainer(SONGS, TEXTS), RecordingObserver(), profile=SONGS, texts=TEXTS, strategies=strategies
    )
    return Judge(
        language_model=model,
        reranker=reranker,
        config=PipelineConfig(version="test", ranking=RankingConfig(diversity=0.0, discovery_share=0.0)),
        versions=VersionFinder(SONGS.versions),
        clock=SystemClock(),
        order_weight=0.6,
        locale="en",
        price=price,
    )


async def asked_of(study: Study, judge: Judge, n: int | None = None) -> list[uplift.Question]:
    index, source = InMemoryItemIndex(study.rows, study.embedder_name), InMemoryCollaborativeSource(study.fitted)
    return await questions_of(replace(study, listeners=study.listeners[:n]), index, source, judge, k=K)


async def measured(study: Study, model: LanguageModel, kept: KeptAnswers, n: int | None = None) -> Uplift:
    judge = serving(model)
    questions = await asked_of(study, judge, n)
    return report(study, questions, await ask(questions, judge, kept), judge, k=K)


def gains(found: Uplift) -> dict[str, Interval]:
    return {order.name: order.ndcg_gain for order in found.orders if order.ndcg_gain is not None}


def shown(found: Uplift) -> str:
    console = Console(width=180)
    with console.capture() as captured:
        for part in found:
            console.print(part)
    return captured.get()


# --- three models ---


async def test_a_good_a_random_and_a_reversed_model_are_told_apart(
    study: Study, tmp_path: Path, llm_server: LLMServer
) -> None:
    llm_server.relevant = truth_of(study)
    found = {}
    async with over_http(llm_server) as model:
        for manner in (Manner.GOOD, Manner.SHUFFLED, Manner.REVERSED):
            llm_server.manner = manner
            with open_kept_answers(tmp_path / f"{manner}.db") as kept:
                found[manner] = await measured(study, model, kept)
    fused, alone = ({manner: gains(each)[name] for manner, each in found.items()} for name in (FUSED, ALONE))
    for gain in (fused, alone):
        assert verdict(gain[Manner.GOOD]) == "significantly better"
        assert verdict(gain[Manner.SHUFFLED]) != "significantly better"
        assert verdict(gain[Manner.REVERSED]) == "significantly worse"
        # Among items that nothing tells apart, a ranking is worth as much as chance.
        assert abs(gain[Manner.SHUFFLED].value) < 0.12
        assert gain[Manner.GOOD].low > gain[Manner.SHUFFLED].high
        assert gain[Manner.SHUFFLED].low > gain[Manner.REVERSED].high
    beyond_chance = {manner: verdict(each.beyond_chance) for manner, each in found.items()}
    assert beyond_chance[Manner.GOOD] == "significantly better"
    assert beyond_chance[Manner.SHUFFLED] != "significantly better"
    assert beyond_chance[Manner.REVERSED] == "significantly worse"
    good = {order.name: order for order in found[Manner.GOOD].orders}
    assert good[ALONE].recall.value == pytest.approx(good[FUSED].recall.value)
    better, worse = good[ALONE].better, good[ALONE].worse
    assert better is not None
    assert worse is not None
    assert better > 0.5 > worse
    assert good[RANKING].ndcg.value == {o.name: o.ndcg.value for o in found[Manner.REVERSED].orders}[RANKING]


async def test_the_report_says_all_that_a_decision_needs(
    study: Study, kept: KeptAnswers, llm_server: LLMServer
) -> None:
    llm_server.relevant, llm_server.manner = truth_of(study), Manner.GOOD
    async with over_http(llm_server) as model:
        found = await measured(study, model, kept)
    text = shown(found)
    for part in (
        "Recall@6", "NDCG@6", "gain in NDCG", "better for", RANKING, FUSED, ALONE, CHANCE,
        "60 listeners, tested", "50 without favour", "degraded: nothing", "tokens a listener", "USD for a thousand",
        f"VERDICT {FUSED}: significantly better than the ranking alone at n = 60 (NDCG@6 +",
    ):  # fmt: skip
        assert part in text
    usage = llm_server.stats
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (usage.prompt_tokens, usage.completion_tokens)
    assert found.usage.cost_usd == pytest.approx((usage.prompt_tokens + 4 * usage.completion_tokens) / 1e6)
    assert found.usage.seconds_p95 >= found.usage.seconds_p50 > 0


async def test_figures_are_written_as_json(study: Study, kept: KeptAnswers, tmp_path: Path) -> None:
    found = await measured(study, ScriptedLanguageModel(first_shown), kept)
    found.write(tmp_path / "uplift.json")
    told = json.loads((tmp_path / "uplift.json").read_text(encoding="utf-8"))
    assert told["orders"][1]["ndcg_gain"]["low"] == gains(found)[FUSED].low
    assert told["verdicts"] == list(found.verdicts)
    assert [order["name"] for order in told["orders"]] == [RANKING, FUSED, ALONE, CHANCE]


# --- scripted answers ---


def picking(handles: Sequence[int]) -> str:
    picks = [{"h": handle, "r": "A song that fits well"} for handle in handles]
    group = {"label": "All", "tagline": "Of them", "picks": picks}
    return json.dumps({"taste": "Songs of one kind", "groups": [group]})


def first_shown(_: Prompt) -> str:
    """A model that takes whatever stands first in the prompt."""
    return picking(range(1, K + 1))


async def test_a_model_that_takes_what_it_is_shown_first_is_caught_by_the_places(study: Study, tmp_path: Path) -> None:
    with open_kept_answers(tmp_path / "first.db") as kept:
        found = await measured(study, ScriptedLanguageModel(first_shown), kept)
    assert found.place is not None
    assert found.place.value == pytest.approx((K / 2) / N_CANDIDATES)
    assert found.place.high < 0.5


async def test_orders_are_what_serving_would_make_of_them(study: Study) -> None:
    question = (await asked_of(study, serving(ScriptedLanguageModel(first_shown)), 1))[0]
    picked = [question.asked.handles[handle] for handle in (4, 2, 9)]
    ranked = [candidate.item.item_id for candidate in question.candidates]
    ids = [candidate.item.item_id for candidate in picked]
    by_score = [candidate.item.item_id for candidate in sorted(picked, key=lambda each: -each.score)]
    rest = [item_id for item_id in ranked if item_id not in ids]
    for order_weight, fused in ((1.0, ids), (0.0, by_score)):
        orders = uplift._orders(question, picked, order_weight)
        assert orders == {RANKING: ranked, FUSED: [*fused, *rest], ALONE: [*ids, *rest]}


async def test_other_weights_of_the_models_order_are_judged_by_the_same_answers(
    study: Study, kept: KeptAnswers, llm_server: LLMServer
) -> None:
    llm_server.relevant, llm_server.manner = truth_of(study), Manner.GOOD
    async with over_http(llm_server) as model:
        found = await measured(study, model, kept)
    assert llm_server.n_calls == len(study.listeners)
    figures = {order.name: order.ndcg.value for order in found.orders}
    assert list(found.by_weight) == [0, 0.25, 0.5, 0.75, 1]
    assert found.by_weight[1] == pytest.approx(figures[ALONE])
    assert found.by_weight[0] < found.by_weight[1]
    assert f"by LLM_ORDER_WEIGHT: 0: {found.by_weight[0]:.4f}, 0.25: " in shown(found)


async def test_what_a_model_makes_up_is_counted_and_its_list_is_the_rankings(study: Study, kept: KeptAnswers) -> None:
    found = await measured(study, ScriptedLanguageModel(picking([1001, 1002, 1, 1])), kept, n=10)
    assert found.dropped == {"unknown_handle": 20, "repeated_handle": 10}
    assert found.failed == {"incomplete": 10}
    assert "unknown_handle 20" in shown(found)


async def test_calls_that_fail_count_as_the_ranking_and_are_named(
    study: Study, kept: KeptAnswers, llm_server: LLMServer
) -> None:
    llm_server.fail(Fault.REFUSAL, times=10)
    async with over_http(llm_server) as model:
        found = await measured(study, model, kept, n=10 + 5)
    assert found.failed == {"refused": 10}
    orders = {order.name: order for order in found.orders}
    assert (orders[FUSED].better or 0) + (orders[FUSED].worse or 0) <= 5 / 15 + 1e-9


async def test_where_every_call_fails_there_is_no_report(
    study: Study, kept: KeptAnswers, llm_server: LLMServer
) -> None:
    llm_server.fail(Fault.REFUSAL)
    async with over_http(llm_server) as model:
        with pytest.raises(LanguageModelFailed, match="refused"):
            await measured(study, model, kept, n=5)


async def test_no_fallback_model_is_asked_in_place_of_the_measured_one(llm_server: LLMServer) -> None:
    llm_server.fail(Fault.BAD_REQUEST)
    table = StrategyTable.model_validate({"default": {"fallback_model": "another"}})
    settings = Settings(openai_base_url=llm_server.base_url, llm_strategies=table, redis_url=SecretStr("memory://"))
    prompt = Prompt(system="s", user="u", schema_name="n", schema={"type": "object"}, max_output_tokens=9)
    async with open_judge(settings) as judge:
        with pytest.raises(LanguageModelFailed):
            await judge.language_model.complete(prompt)
    assert {body["model"] for body in llm_server.requests} == {table.default.model}


async def test_few_listeners_are_said_to_be_few(study: Study, kept: KeptAnswers) -> None:
    assert "hardly anything can be said" in shown(await measured(study, ScriptedLanguageModel(first_shown), kept, n=5))


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.01, 0.2, "significantly better"), (-0.2, -0.01, "significantly worse"), (-0.1, 0.1, "no better and no worse")],
)
def test_a_verdict_is_what_the_interval_says(low: float, high: float, says: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high)) == says


# --- cost, and being interrupted ---


async def test_an_interrupted_run_is_resumed_without_paying_for_an_answer_twice(
    study: Study, tmp_path: Path, llm_server: LLMServer
) -> None:
    path = tmp_path / "answers.db"
    async with over_http(llm_server) as model:
        judge = serving(model)
        questions = await asked_of(study, judge)
        llm_server.gate = 21  # the calls that are let through, and one that holds up those under way with it
        with open_kept_answers(path) as kept:
            asking = asyncio.create_task(ask(questions[:20], judge, kept))
            await llm_server.called(8)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert estimate(questions, kept, judge).n_kept == 0
        llm_server.gate = 0
        with open_kept_answers(path) as kept:
            await ask(questions[:20], judge, kept)
        n_paid = llm_server.stats.n_answered
        with open_kept_answers(path) as kept:
            left = estimate(questions, kept, judge)
            assert (left.n_kept, left.n_calls) == (20, 40)
            first = await ask(questions, judge, kept)
        assert llm_server.stats.n_answered == n_paid + 40
        with open_kept_answers(path) as kept:
            assert await ask(questions, judge, kept) == first
    assert llm_server.stats.n_answered == n_paid + 40


async def test_answers_that_came_before_an_interruption_are_kept(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    judge = serving(StoppingModel(after=13))
    questions = await asked_of(study, judge)
    with open_kept_answers(path) as kept, pytest.raises(BaseExceptionGroup) as stopped:
        await ask(questions, judge, kept)
    assert stopped.group_contains(RuntimeError, match="the power went")
    with open_kept_answers(path) as kept:
        assert estimate(questions, kept, judge).n_kept == 13


class StoppingModel(ScriptedLanguageModel):
    """Answers so many questions, and then takes the program down."""

    def __init__(self, *, after: int) -> None:
        super().__init__(first_shown)
        self._after = after

    async def complete(self, prompt: Prompt, *, deep: bool = False) -> Completion:
        if len(self.prompts) == self._after:
            raise RuntimeError("the power went")
        return await super().complete(prompt, deep=deep)


async def test_a_failure_is_not_kept_and_the_next_run_asks_again(
    study: Study, kept: KeptAnswers, llm_server: LLMServer
) -> None:
    async with over_http(llm_server) as model:
        judge = serving(model)
        questions = await asked_of(study, judge, 3)
        llm_server.fail(Fault.SERVER_ERROR, times=1)
        await ask(questions, judge, kept)
        assert estimate(questions, kept, judge).n_kept == 2
        again = await ask(questions, judge, kept)
        assert all(isinstance(each.end, Completion) for each in again)
    assert llm_server.n_calls == 4


async def test_an_estimate_is_near_and_never_below_what_is_paid(
    study: Study, kept: KeptAnswers, llm_server: LLMServer
) -> None:
    async with over_http(llm_server) as model:
        judge = serving(model)
        questions = await asked_of(study, judge)
        told = estimate(questions, kept, judge)
        await ask(questions, judge, kept)
    used = llm_server.stats
    assert used.prompt_tokens <= told.prompt_tokens <= 1.3 * used.prompt_tokens
    assert used.completion_tokens <= told.completion_tokens
    assert told.usd == pytest.approx((told.prompt_tokens + 4 * told.completion_tokens) / 1e6)


async def test_a_limit_holds_and_of_an_unknown_price_nothing_is_within_it(study: Study, kept: KeptAnswers) -> None:
    model = ScriptedLanguageModel(first_shown)
    judge = serving(model)
    questions = await asked_of(study, judge, 5)
    priced, unpriced = (estimate(questions, kept, each) for each in (judge, replace(judge, price=None)))
    assert priced.usd is not None
    assert priced.is_within(priced.usd)
    assert not priced.is_within(priced.usd * 0.99)
    assert not unpriced.is_within(1e9)
    assert "LLM_PRICES" in str(unpriced)
    await ask(questions, judge, kept)
    nothing = estimate(questions, kept, replace(judge, price=None))
    assert nothing.is_within(0)
    assert str(nothing).startswith("0 calls to make (5 answers are kept from before)")


async def test_progress_is_told_to_the_last_question(study: Study, kept: KeptAnswers) -> None:
    model, told = ScriptedLanguageModel(first_shown), list[int]()
    judge = serving(model)
    questions = await asked_of(study, judge, 9)
    await ask(questions, judge, kept, done=told.append)
    assert told == list(range(1, 10))


# --- the files of a data set ---


def a_table(**columns: Sequence[str]) -> ItemTable:
    n = len(next(iter(columns.values())))
    return ItemTable([f"i{number}" for number in range(n)], columns, {"year": [1990.0] * n})


def test_items_of_songs_have_what_the_prompt_shows() -> None:
    table = a_table(Track_Name=["One"], artist_name=["Her"], track_genre=["pop; rock,pop"], mood=["calm"], lang=["ko"])
    item = items_of(table, ["i0"])[0]
    assert (item.item_id, item.title("en"), item.creator, item.genres) == (1, "One", "Her", ("pop", "rock"))
    assert (item.moods, item.language, item.features) == (("calm",), "ko", {"year": 1990.0})


def test_items_that_are_artists_need_only_names_and_tags() -> None:
    item = items_of(a_table(name=["MALICE MIZER"], tags=["j-rock,visual kei"]), ["i0"])[0]
    assert (item.title("ko"), item.creator, item.genres) == ("MALICE MIZER", None, ("j-rock", "visual kei"))
    alone = items_of(a_table(artist=["Diary of Dreams"]), ["i0"])[0]
    assert (alone.title("en"), alone.creator) == ("Diary of Dreams", None)


def test_an_item_that_the_table_lacks_is_shown_by_its_id() -> None:
    assert [item.title("en") for item in items_of(a_table(title=["One"]), ["gone", "i0"])] == ["gone", "One"]


def test_items_without_a_title_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no column of the items is a title; known are title, name"):
        items_of(a_table(colour=["red"]), ["i0"])


def test_a_model_can_not_be_shown_items_without_names(dataset: Path) -> None:
    with pytest.raises(ConfigurationError, match="give --items"):
        prepare(dataset / "interactions.csv", "new", budget_s=0)


@pytest.mark.parametrize("protocol", ["known", "new", "cold"])
async def test_candidates_are_what_serving_would_show_and_nothing_that_is_liked(dataset: Path, protocol: str) -> None:
    with threadpool_limits(1, user_api="blas"):
        study = await asyncio.to_thread(prepare, dataset, protocol, n_users=5, budget_s=0)
    assert len(study.listeners) == 5
    questions = await asked_of(study, serving(ScriptedLanguageModel(first_shown)))
    for question in questions:
        shown_ids = {candidate.item.item_id for candidate in question.candidates}
        assert len(shown_ids) == len(question.candidates) <= N_CANDIDATES
        assert not shown_ids & question.listener.likes.keys()
        assert not shown_ids & study.excluded
        assert not question.listener.targets & question.listener.likes.keys()
        assert {shown.item.item_id for shown in question.asked.handles.values()} == shown_ids
    if protocol == "cold":
        assert all(question.listener.targets.isdisjoint(study.excluded) for question in questions)


def test_the_same_seed_asks_the_same_listeners(dataset: Path, study: Study) -> None:
    with threadpool_limits(1, user_api="blas"):
        again = prepare(dataset, "new", n_users=60, budget_s=0)
        other = prepare(dataset, "new", n_users=60, budget_s=0, seed=1)
    assert again.listeners == study.listeners
    assert other.listeners != study.listeners


async def test_more_listeners_are_asked_about_the_same_and_further_ones(dataset: Path, study: Study) -> None:
    with threadpool_limits(1, user_api="blas"):
        few = await asyncio.to_thread(prepare, dataset, "new", n_users=7, budget_s=0)
    judge = serving(ScriptedLanguageModel(first_shown))
    asked_few, asked = await asked_of(few, judge), await asked_of(study, judge)
    assert [each.asked.prompt for each in asked_few] == [each.asked.prompt for each in asked[:7]]


# --- kept answers ---


def test_a_kept_answer_comes_back_as_it_was(tmp_path: Path) -> None:
    found = Kept(Completion(text='{"taste": "夜"}', model="m", prompt_tokens=3, completion_tokens=2, cost_usd=0.1), 1.5)
    with open_kept_answers(tmp_path / "a.db") as kept:
        kept.put("q", found)
    with open_kept_answers(tmp_path / "a.db") as kept:
        assert kept.get("q") == found
        assert kept.get("other") is None


def test_a_question_is_known_by_all_that_its_answer_depends_on() -> None:
    prompt = Prompt(system="s", user="u", schema_name="n", schema={"type": "object"}, max_output_tokens=9)
    others = [
        replace(prompt, system="t"),
        replace(prompt, user="v"),
        replace(prompt, schema_name="o"),
        replace(prompt, schema={}),
        replace(prompt, max_output_tokens=8),
    ]
    ids = {question_id(each, "m") for each in (prompt, *others)} | {question_id(prompt, "other")}
    assert len(ids) == len(others) + 2
    assert question_id(replace(prompt), "m") == question_id(prompt, "m")


def test_a_file_that_can_not_keep_answers_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database " * 100, encoding="utf-8")
    for path in (tmp_path / "text.db", tmp_path / "nowhere" / "a.db"):
        with pytest.raises(ConfigurationError, match=path.name), open_kept_answers(path):
            pass


# --- the command ---


async def evaluated(dataset: Path, tmp_path: Path, url: str, *options: str, **environment: str) -> Outcome:
    return await run_command(
        "evaluate",
        str(dataset),
        "--llm",
        f"--k={K}",
        "--users=40",
        "--budget-s=0",
        f"--answers={tmp_path / 'answers.db'}",
        *options,
        environment={"OPENAI_BASE_URL": url, "DEFAULT_LOCALE": "en", **environment},
    )


async def test_the_command_tells_the_price_first_and_asks_only_within_the_limit(
    dataset: Path, tmp_path: Path, llm_server: LLMServer
) -> None:
    with threadpool_limits(1, user_api="blas"):
        llm_server.relevant = truth_of(await asyncio.to_thread(prepare, dataset, "new", n_users=40, budget_s=0))
    llm_server.manner = Manner.GOOD
    unpriced = await evaluated(dataset, tmp_path, llm_server.base_url)
    assert (unpriced.code, llm_server.n_calls) == (2, 0)
    assert "40 calls to make: about " in unpriced.err
    assert "give --yes to ask all the same" in unpriced.err
    prices = json.dumps({"gpt-4.1-mini": {"input": 0.4, "output": 1.6}})
    out = tmp_path / "uplift.json"
    asked = await evaluated(dataset, tmp_path, llm_server.base_url, f"--json={out}", LLM_PRICES=prices)
    assert (asked.code, llm_server.n_calls) == (0, 40), asked.err
    assert "at most about 0." in asked.err
    assert f"VERDICT {FUSED}: significantly better than the ranking alone at n = 40" in asked.out
    assert json.loads(out.read_text(encoding="utf-8"))["n_listeners"] == 40


async def test_without_an_llm_the_command_says_so_before_it_fits_anything(dataset: Path, tmp_path: Path) -> None:
    outcome = await evaluated(dataset, tmp_path, "")
    assert outcome.code == 2
    assert "OPENAI_API_KEY is empty" in outcome.err
    assert "fitting" not in outcome.err
