"""What each strategy sends and may spend: the table, its errors, and the two calls of ``deep``."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from pydantic import SecretStr, ValidationError

from config.catalogue_profile import load_profile
from config.llm_strategies import DEFAULT_STRATEGIES, MAX_CALLS, StrategyLimits, StrategyTable
from config.prompt_texts import load_prompt_texts
from config.settings import Settings
from config.token_price import TokenPrice
from core.errors import LanguageModelFailed
from core.explanation import Explainer
from core.ports.language_model import Prompt
from core.reranking import Reranker, RerankRequest
from core.screening import Screened, parse_screening
from core.wish import Wish, WishReader
from models.job import JobContext, Strategy
from models.recommendation import Candidate, Reranked
from services.clock import SystemClock
from services.metrics import PrometheusMetrics
from services.redis_client import open_redis
from tests.support.builders import make_candidate, make_item
from tests.support.llm_faults import Fault
from tests.support.llm_server import LLMServer
from tests.support.scripted_language_model import RecordingObserver, ScriptedLanguageModel
from workers.runtime.language_model import open_language_model, warn_of_unpriced_models

PROFILE, TEXTS = load_profile("songs"), load_prompt_texts()
LIKED = [make_item(1000, title="Liked", creator="Idol")]


def table(**rows: Any) -> StrategyTable:
    return StrategyTable.model_validate(rows)


# --- the table ---


def test_what_is_given_of_a_row_is_merged_over_its_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_STRATEGIES", '{"deep": {"model": "big", "n_candidates": 150}}')
    settings = Settings(_env_file=None)
    defaults = DEFAULT_STRATEGIES.deep.model_copy(update={"model": "big", "n_candidates": 150})
    assert settings.llm_strategies.deep == defaults
    assert settings.llm_strategies.default == DEFAULT_STRATEGIES.default


def test_the_page_about_the_llm_shows_the_table() -> None:
    page = (Path(__file__).parents[1] / "docs" / "llm.md").read_text(encoding="utf-8")
    rows = [
        f"| `{name}` | "
        + " | ".join(str(getattr(row, name)) for row in (DEFAULT_STRATEGIES[each] for each in MAX_CALLS))
        + " |"
        for name in StrategyLimits.model_fields
    ]
    assert "\n".join(rows).replace("|  |", "| |").replace("|  |", "| |") in page


def test_fast_asks_nobody_default_once_and_deep_a_stronger_model_twice_of_more_candidates() -> None:
    fast, default, deep = (
        DEFAULT_STRATEGIES[strategy] for strategy in (Strategy.FAST, Strategy.DEFAULT, Strategy.DEEP)
    )
    assert [row.max_calls for row in (fast, default, deep)] == [0, 1, 2] == list(MAX_CALLS.values())
    assert deep.model != default.model
    assert deep.n_candidates > default.n_candidates


@pytest.mark.parametrize(
    ("given_rows", "place", "problem"),
    [
        ({"deep": {"n_candidates": 0}}, ("deep", "n_candidates"), "greater than or equal to 1"),
        ({"deep": {"n_candidates": "many"}}, ("deep", "n_candidates"), "valid integer"),
        ({"default": {"n_likes": 61}}, ("default", "n_likes"), "less than or equal to 60"),
        ({"default": {"max_calls": 3}}, ("default", "max_calls"), "0, 1 or 2"),
        ({"default": {"modell": "x"}}, ("default", "modell"), "not permitted"),
        ({"depe": {"model": "x"}}, ("depe",), "not permitted"),
        ({"deep": "gpt"}, ("deep",), "StrategyLimits"),
        ({"deep": {"model": ""}}, ("deep",), "model: none is named"),
        ({"deep": {"n_explained": 0}}, ("deep",), "n_explained: must be"),
        ({"default": {"n_explained": 20, "n_candidates": 10}}, ("default",), "n_explained: must be"),
        ({"default": {"max_prompt_tokens": 1599}}, ("default",), "max_prompt_tokens: must be 1600"),
        ({"default": {"max_completion_tokens": 10}}, ("default",), "max_completion_tokens: must be 800"),
        ({"default": {"max_calls": 2}}, (), "default.max_calls: must be 1"),
    ],
)
def test_a_wrong_row_is_refused_by_strategy_and_field(
    given_rows: dict[str, Any], place: tuple[str, ...], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_STRATEGIES", json.dumps(given_rows))
    with pytest.raises(ValidationError) as caught:
        Settings(_env_file=None)
    (error,) = caught.value.errors()
    assert error["loc"] == ("llm_strategies", *place)
    assert problem in error["msg"]


def test_a_job_has_time_for_all_calls_of_its_strategy() -> None:
    with pytest.raises(ValidationError, match="job_timeout_s must be above 2 times llm_timeout_s"):
        Settings(_env_file=None, openai_api_key=SecretStr("k"), llm_timeout_s=20, job_timeout_s=40)
    without = Settings(_env_file=None, openai_api_key=SecretStr(""), llm_timeout_s=20, job_timeout_s=40)
    assert not without.llm_enabled


@pytest.mark.parametrize(
    ("name", "value"), [("llm_rate_limits", {"requests_per_minute": 5}), ("llm_prices", {"input": 1, "output": 1})]
)
def test_a_limit_or_a_price_of_a_model_that_nobody_asks_is_refused_by_name(
    name: str, value: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"default": {"model": "small", "fallback_model": "spare"}, "deep": {"model": "large"}}
    right = {"small": value, "spare": value, "large": value}
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("LLM_STRATEGIES", json.dumps(rows))
    monkeypatch.setenv(name.upper(), json.dumps(right))
    assert set(getattr(Settings(_env_file=None), name)) == set(right)
    monkeypatch.setenv(name.upper(), json.dumps({**right, "smal": value}))
    with pytest.raises(ValidationError, match=f"{name} names smal, but llm_strategies asks small, large, spare and no"):
        Settings(_env_file=None)
    # Where nobody is asked at all, what waits for it does no harm.
    monkeypatch.setenv("OPENAI_API_KEY", "")
    assert set(getattr(Settings(_env_file=None), name)) == {*right, "smal"}


def test_where_no_strategy_calls_there_is_no_llm() -> None:
    quiet = table(default={"max_calls": 0}, deep={"max_calls": 0})
    assert quiet.models == ()
    assert not Settings(_env_file=None, openai_api_key=SecretStr("k"), llm_strategies=quiet).llm_enabled


def test_all_models_that_may_be_asked_are_named_once() -> None:
    rows = table(default={"model": "a", "fallback_model": "b"}, deep={"model": "b", "fallback_model": "a"})
    assert rows.models == ("a", "b")


# --- the two calls of deep ---


def ranked(n: int) -> list[Candidate]:
    """Candidates of falling score, whose item ids are 1 to ``n``."""
    return [make_candidate(make_item(place + 1, title=f"Song {place + 1}"), score=1 - place / n) for place in range(n)]


def shown_songs(prompt: Prompt) -> dict[int, int]:
    """Item ids by handle, off the lines of the prompt."""
    lines = prompt.user.split("</candidates>")[0].splitlines()[1:]
    return {int(line.split()[0]): int(line.split()[2]) for line in lines}


def script(
    first: Callable[[dict[int, int]], object], second: Callable[[dict[int, int]], object]
) -> ScriptedLanguageModel:
    """Answers the screening by ``first`` and the other question by ``second``; a failure is raised."""

    def say(prompt: Prompt) -> str:
        said = (first if prompt.schema_name == "choice" else second)(shown_songs(prompt))
        if isinstance(said, LanguageModelFailed):
            raise said
        return said if isinstance(said, str) else json.dumps(said)

    return ScriptedLanguageModel(say)


def choose(*item_ids: int) -> Callable[[dict[int, int]], object]:
    return lambda shown: {
        "picks": [handle for item_id in item_ids for handle, each in shown.items() if each == item_id]
    }


def explain(*item_ids: int) -> Callable[[dict[int, int]], object]:
    def said(shown: dict[int, int]) -> object:
        handles = {item_id: handle for handle, item_id in shown.items()}
        picks = [{"h": handles[item_id], "r": f"It suits you, number {item_id}"} for item_id in item_ids]
        groups = [{"label": "One", "tagline": "The first ones", "picks": picks[:2]}]
        groups.append({"label": "Two", "tagline": "The others", "picks": picks[2:]})
        return {"taste": "You like songs of all kinds.", "groups": groups}

    return said


# --- a wish that takes all of the room ---


def longest_wish(letter: str) -> Wish:
    wish = WishReader(PROFILE.wishes).read(JobContext(query=letter * 300, mood=letter * 64, activity=letter * 64))
    assert wish is not None
    return wish


@pytest.mark.parametrize("strategy", [Strategy.DEFAULT, Strategy.DEEP])
async def test_a_prompt_without_room_for_a_candidate_is_not_paid_for(strategy: Strategy) -> None:
    model, observer = ScriptedLanguageModel('{"taste": "", "groups": []}'), RecordingObserver()
    least = {"max_prompt_tokens": 1600}
    stage = Reranker(
        model,
        Explainer(PROFILE, TEXTS),
        observer,
        profile=PROFILE,
        texts=TEXTS,
        strategies=table(default=least, deep=least),
    )
    # Letters that take a token or more for each of their four bytes.
    request = RerankRequest(
        candidates=ranked(60), liked=LIKED, locale="ko", strategy=strategy, n_picks=4, wish=longest_wish("\U00020000")
    )
    outcome = await stage.rerank(request)
    assert (model.prompts, outcome.usage.n_calls) == ([], 0)
    assert (outcome.model, outcome.degraded, observer.degradations) == ("offline", "incomplete", ["incomplete"])
    assert sorted(ids(outcome)) == [1, 2, 3, 4]
    assert stage.prepare(request) is None


@pytest.mark.parametrize("locale", ["en", "ko", "ja"])
@pytest.mark.parametrize("letter", ["x ", "밝고 ", "明るい"])
async def test_the_least_prompt_that_may_be_set_has_room_for_candidates_beside_the_longest_wish(
    letter: str, locale: str
) -> None:
    model = ScriptedLanguageModel('{"taste": "", "groups": []}')
    stage = Reranker(
        model,
        Explainer(PROFILE, TEXTS),
        RecordingObserver(),
        profile=PROFILE,
        texts=TEXTS,
        strategies=table(default={"max_prompt_tokens": 1600}),
    )
    await stage.rerank(
        RerankRequest(
            candidates=ranked(60),
            liked=LIKED,
            locale=locale,
            strategy=Strategy.DEFAULT,
            n_picks=10,
            wish=longest_wish(letter),
        )
    )
    (prompt,) = model.prompts
    assert len(shown_songs(prompt)) >= 10


async def deep(
    model: ScriptedLanguageModel, n: int = 60, *, observer: RecordingObserver | None = None, seed: str | None = "seed"
) -> Reranked:
    stage = Reranker(
        model,
        Explainer(PROFILE, TEXTS),
        observer or RecordingObserver(),
        profile=PROFILE,
        texts=TEXTS,
        order_weight=1.0,
    )
    return await stage.rerank(
        RerankRequest(candidates=ranked(n), liked=LIKED, locale="en", strategy=Strategy.DEEP, n_picks=4, seed=seed)
    )


def ids(outcome: Reranked) -> list[int]:
    return [pick.candidate.item.item_id for group in outcome.groups for pick in group.picks]


FAR = (55, 44, 33, 22, 60, 51, 42, 31)


async def test_the_first_call_chooses_among_all_and_the_second_explains_those() -> None:
    model = script(choose(*FAR), explain(33, 55, 31, 42))
    outcome = await deep(model)
    all_shown, finalists = map(shown_songs, model.prompts)
    assert set(all_shown.values()) == set(range(1, 61))
    assert set(finalists.values()) == set(FAR)
    assert ids(outcome) == [33, 55, 31, 42]
    assert outcome.usage.n_calls == 2 == len(model.prompts)
    assert outcome.usage.prompt_tokens == 14
    assert (outcome.degraded, outcome.model) == (None, "scripted-deep")


async def test_both_calls_show_a_shuffle_of_their_own_that_follows_from_the_seed() -> None:
    model = script(choose(*FAR), explain(33, 55, 31, 42))
    for _ in range(2):
        await deep(model)
    await deep(model, seed="other")
    orders = [list(shown_songs(prompt).values()) for prompt in model.prompts]
    assert orders[:2] == orders[2:4]
    assert orders[0] != orders[4]
    assert orders[0] != sorted(orders[0])
    first_as_finalists = [item_id for item_id in orders[0] if item_id in FAR]
    assert orders[1] != first_as_finalists


async def test_too_few_for_a_choice_are_explained_in_one_call() -> None:
    model = script(choose(), explain(1, 2, 3, 4))
    outcome = await deep(model, n=8)
    assert (outcome.usage.n_calls, ids(outcome)) == (1, [1, 2, 3, 4])


@pytest.mark.parametrize("reason", ["timeout", "refused", "quota_exhausted", "truncated"])
async def test_where_the_second_call_fails_the_choice_of_the_first_stands(reason: str) -> None:
    observer = RecordingObserver()
    model = script(choose(*FAR), lambda _: LanguageModelFailed(reason))
    outcome = await deep(model, observer=observer)
    assert set(ids(outcome)) == set(FAR[:4])
    assert (outcome.degraded, outcome.model, outcome.usage.n_calls) == (reason, "scripted-deep", 2)
    assert observer.degradations == [reason]


@pytest.mark.parametrize(("said", "reason"), [(LanguageModelFailed("filtered"), "filtered"), ("Sorry.", "malformed")])
async def test_where_the_first_call_says_nothing_the_ranking_stands_and_no_second_is_paid_for(
    said: object, reason: str
) -> None:
    observer = RecordingObserver()
    model = script(lambda _: said, explain(1, 2, 3, 4))
    outcome = await deep(model, observer=observer)
    assert (len(model.prompts), outcome.degraded, outcome.model) == (1, reason, "offline")
    assert set(ids(outcome)) == {1, 2, 3, 4}
    assert observer.degradations == [reason]


async def test_a_choice_of_too_few_is_filled_from_the_ranking_and_says_so() -> None:
    observer = RecordingObserver()
    model = script(choose(55, 55, 44), explain(44, 1, 55, 2))
    outcome = await deep(model, observer=observer)
    assert set(shown_songs(model.prompts[1]).values()) == {55, 44, 1, 2, 3, 4, 5, 6}
    assert ids(outcome) == [44, 1, 55, 2]
    assert outcome.degraded == "malformed"
    assert observer.degradations == ["malformed"]
    assert observer.dropped == {"repeated_handle": 1}


async def test_a_choice_that_was_cut_short_counts_as_far_as_it_goes() -> None:
    observer = RecordingObserver()
    partial = LanguageModelFailed("truncated", partial_text='{"picks":[7,8,9],"more":[1')
    model = script(lambda _: partial, lambda shown: explain(*list(shown.values())[:4])(shown))
    outcome = await deep(model, observer=observer, seed=None)
    assert {7, 8, 9} < set(shown_songs(model.prompts[1]).values())
    assert outcome.degraded == "truncated"
    assert observer.degradations == ["truncated"]


@given(
    st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda x: json.dumps({"picks": x}))
)
def test_whatever_is_answered_the_choice_holds_shown_candidates_each_once(text: str) -> None:
    handles = dict(enumerate(ranked(9), start=1))
    screened = parse_screening(text, handles, 5)
    chosen = [candidate.item.item_id for candidate in screened.chosen]
    assert len(chosen) == len(set(chosen)) <= 5
    assert set(chosen) <= set(range(1, 10))
    assert isinstance(screened, Screened)


# --- over real HTTP ---


@asynccontextmanager
async def worker_s_stage(
    server: LLMServer, rows: StrategyTable, *, streaming: bool = False
) -> AsyncIterator[tuple[Reranker, RecordingObserver]]:
    """The second stage with the ladder of models that a worker has by these settings."""
    settings = Settings(
        _env_file=None,
        openai_api_key=SecretStr("k"),
        openai_base_url=server.base_url,
        llm_strategies=rows,
        llm_timeout_s=5,
        llm_max_retries=0,
        llm_streaming=streaming,
    )
    metrics, observer = PrometheusMetrics(CollectorRegistry(), clock=SystemClock()), RecordingObserver()
    async with (
        open_redis("memory://", max_connections=2, timeout_s=5) as redis,
        open_language_model(settings, metrics, SystemClock(), redis) as model,
    ):
        explainer = Explainer(PROFILE, TEXTS)
        yield Reranker(model, explainer, observer, profile=PROFILE, texts=TEXTS, strategies=rows), observer


async def outcome_of(stage: Reranker, strategy: Strategy, locale: str = "ko") -> Reranked:
    return await stage.rerank(
        RerankRequest(candidates=ranked(60), liked=LIKED, locale=locale, strategy=strategy, n_picks=10, seed="s")
    )


def asked(server: LLMServer) -> list[object]:
    return [body["model"] for body in server.requests]


ROWS = table(default={"model": "small", "fallback_model": "spare"}, deep={"model": "large", "fallback_model": "small"})


@pytest.mark.parametrize(
    ("more", "unpriced"),
    [
        ({}, ["small", "spare", "large"]),
        ({"llm_prices": {"small": TokenPrice(input=1, output=1)}}, ["spare", "large"]),
        ({"llm_prices": dict.fromkeys(["small", "spare", "large"], TokenPrice(input=0, output=0))}, None),
        ({"openai_api_key": ""}, None),
    ],
)
def test_a_worker_says_once_which_models_have_no_price(more: dict[str, Any], unpriced: list[str] | None) -> None:
    settings = Settings(_env_file=None, **{"openai_api_key": "sk", "llm_strategies": ROWS, **more})
    with structlog.testing.capture_logs() as lines:
        warn_of_unpriced_models(settings)
    told = [(line["event"], line["log_level"], set(line["models"])) for line in lines]
    assert told == ([("llm_price_unknown", "warning", set(unpriced))] if unpriced else [])


@pytest.mark.parametrize("streaming", [False, True])
async def test_each_strategy_asks_its_model_as_often_as_it_may(llm_server: LLMServer, streaming: bool) -> None:
    async with worker_s_stage(llm_server, ROWS, streaming=streaming) as (stage, _):
        outcomes = [await outcome_of(stage, strategy) for strategy in (Strategy.FAST, Strategy.DEFAULT, Strategy.DEEP)]
    assert asked(llm_server) == ["small", "large", "large"]
    assert [outcome.model for outcome in outcomes] == ["offline", "small", "large"]
    assert [outcome.usage.n_calls for outcome in outcomes] == [0, 1, 2]
    assert [outcome.degraded for outcome in outcomes] == [None, None, None]


NAMED = {
    Fault.REFUSAL: "refused",
    Fault.CONTENT_FILTER: "filtered",
    Fault.EMPTY_CONTENT: "malformed",
    Fault.SERVER_ERROR: "unavailable",
    Fault.RATE_LIMITED: "rate_limited",
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("fault", NAMED)
async def test_where_a_model_fails_that_strategy_s_fallback_answers_and_is_named(
    llm_server: LLMServer, fault: Fault, streaming: bool
) -> None:
    async with worker_s_stage(llm_server, ROWS, streaming=streaming) as (stage, _):
        llm_server.fail(fault, times=1)
        default = await outcome_of(stage, Strategy.DEFAULT)
        llm_server.fail(fault, times=1)
        deep = await outcome_of(stage, Strategy.DEEP)
        assert (stage.model_name(Strategy.DEFAULT), stage.model_name(Strategy.DEEP)) == ("small", "large")
    assert asked(llm_server) == ["small", "spare", "large", "small", "large"]
    assert (default.model, deep.model) == ("spare", "large")
    assert (default.degraded, deep.degraded) == (None, None)
    assert (default.usage.n_calls, deep.usage.n_calls) == (2, 3)


async def test_a_strategy_without_a_fallback_asks_its_model_once(llm_server: LLMServer) -> None:
    llm_server.fail(Fault.SERVER_ERROR)
    rows = table(default={"model": "small"}, deep={"model": "large", "fallback_model": "small"})
    async with worker_s_stage(llm_server, rows) as (stage, _):
        default, deep = await outcome_of(stage, Strategy.DEFAULT), await outcome_of(stage, Strategy.DEEP)
    assert asked(llm_server) == ["small", "large", "small"]
    assert (default.model, default.degraded, deep.degraded) == ("offline", "unavailable", "unavailable")


ENDS = {**NAMED, Fault.QUOTA_EXHAUSTED: "quota_exhausted", Fault.TRUNCATED: "truncated", Fault.MALFORMED: "malformed"}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("fault", ENDS)
async def test_where_every_model_fails_the_list_is_whole_degraded_and_counted_once(
    llm_server: LLMServer, fault: Fault, streaming: bool
) -> None:
    llm_server.fail(fault)
    async with worker_s_stage(llm_server, ROWS, streaming=streaming) as (stage, observer):
        outcome = await outcome_of(stage, Strategy.DEFAULT)
    assert len(ids(outcome)) == len(set(ids(outcome))) == 10
    assert outcome.degraded == ENDS[fault]
    assert observer.degradations == [ENDS[fault]]


@pytest.mark.parametrize("streaming", [False, True])
async def test_of_a_truncated_answer_over_http_the_complete_picks_are_used(
    llm_server: LLMServer, streaming: bool
) -> None:
    llm_server.fail(Fault.TRUNCATED)
    async with worker_s_stage(llm_server, ROWS, streaming=streaming) as (stage, _):
        outcome = await outcome_of(stage, Strategy.DEFAULT, "en")
    by_model = [pick for group in outcome.groups for pick in group.picks if pick.reason.startswith("A ")]
    assert 0 < len(by_model) < 10
    assert (outcome.model, outcome.degraded, asked(llm_server)) == ("small", "truncated", ["small"])
