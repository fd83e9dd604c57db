"""Metrics: their names, their bounded labels, the two derived rates, and that the document tells of all of them."""

import asyncio
import inspect
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import isnan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter

from api.health import DependencyObserver
from api.request_boundary import RequestObserver
from config.prompt_texts import ClaimWords, load_prompt_texts
from core.llm_share import Arm
from core.model_answer import Answer, AnswerGroup, Choice, only_true, only_written_in, parse_answer
from core.ports.batches import BatchTotals, BatchUsage
from core.ports.clock import Clock
from core.ports.observing import Observer
from core.reranking import INCOMPLETE, MALFORMED
from core.script import Script
from core.truth import ClaimRules, Truth
from core.wish_stage import NOT_EMBEDDED
from services.call_guard import GuardObserver
from services.circuit_breaker import BreakerState
from services.clock import SystemClock
from services.index_watch import IndexObserver
from services.loop_lag import watch_loop
from services.metric_parts.labels import (
    ARMS,
    BREAKER_STATES,
    DROP_CAUSES,
    FLAWS,
    HTTP_ROUTES,
    JOB_OUTCOMES,
    LLM_FAILURES,
    OTHER,
    PROVISIONAL_OUTCOMES,
    REASONS,
    ROUTES,
    SETTLED_REASONS,
    SOURCES,
    STAGES,
)
from services.metric_parts.series import labelled
from services.metrics import PrometheusMetrics
from tests.support.builders import make_candidate, make_item
from tests.support.hand_clock import HandClock
from workers.disposition import AckReason, DeadLetterReason, RetryReason
from workers.event_batches import BatchObserver
from workers.event_handler import EventObserver
from workers.event_refreshes import RefreshObserver
from workers.observer import KNOWN_SOURCES, WorkerObserver, source_label
from workers.queue_watch import QueueObserver
from workers.topology import build_topology

TOKEN_KINDS = ("prompt", "completion", "cached")
DOCUMENT = Path(__file__).parents[1] / "docs" / "metrics.md"
_ROW = re.compile(r"^\| `([a-z_]+)` \| (\w+) \| ([^|]*) \| [^|]{10,} \|$", re.MULTILINE)


class Bench:
    """Metrics in a registry of their own."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.registry = CollectorRegistry()
        self.metrics = PrometheusMetrics(self.registry, clock=self.clock, version="1.2.3")

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def llm_call(self, outcome: str, model: str = "small") -> None:
        self.metrics.llm_call(model=model, outcome=outcome, seconds=2.0, prompt_tokens=2000, completion_tokens=500)

    @property
    def n_series(self) -> int:
        return sum(len(family.samples) for family in self.registry.collect())


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- the names that dashboards chart already ---


def test_the_four_names_of_the_contract_are_exposed(bench: Bench) -> None:
    exposition = bench.metrics.expose("")[0].decode()
    assert "# TYPE songs_ai_recommendations_total counter" in exposition
    assert "# TYPE songs_ai_recommendation_duration_seconds histogram" in exposition
    assert "# TYPE songs_ai_ai_analysis_success_rate gauge" in exposition
    assert "# TYPE songs_ai_cache_hit_rate gauge" in exposition


def test_no_series_of_creation_times_is_exposed(bench: Bench) -> None:
    assert "_created" not in bench.metrics.expose("")[0].decode()


# --- the two rates ---


def test_before_the_first_call_nothing_has_failed_and_nothing_has_hit(bench: Bench) -> None:
    assert bench.value("songs_ai_ai_analysis_success_rate") == 1.0
    assert bench.value("songs_ai_cache_hit_rate") == 0.0


def test_the_success_rate_is_the_share_of_calls_that_left_no_degraded_result(bench: Bench) -> None:
    for outcome in ("ok", "ok", "ok", "timeout"):
        bench.llm_call(outcome)
    bench.metrics.degraded("timeout")
    assert bench.value("songs_ai_ai_analysis_success_rate") == 0.75
    bench.metrics.degraded("malformed")
    assert bench.value("songs_ai_ai_analysis_success_rate") == 0.5


def test_a_call_cancelled_with_its_job_is_neither_success_nor_failure(bench: Bench) -> None:
    bench.llm_call("cancelled")
    assert bench.value("songs_ai_ai_analysis_success_rate") == 1.0
    bench.llm_call("timeout")
    bench.metrics.degraded("timeout")
    assert bench.value("songs_ai_ai_analysis_success_rate") == 0.0


def test_a_result_degraded_before_any_call_was_counted_is_no_success(bench: Bench) -> None:
    bench.metrics.degraded("unavailable")
    assert bench.value("songs_ai_ai_analysis_success_rate") == 0.0


def test_the_hit_rate_is_the_share_of_hits(bench: Bench) -> None:
    for hit in (True, False, False, False):
        bench.metrics.answer_cache(hit=hit)
    assert bench.value("songs_ai_cache_hit_rate") == 0.25


@given(st.lists(st.sampled_from(["ok", *LLM_FAILURES, "never heard of"])), st.lists(st.booleans()))
def test_the_rates_agree_with_their_counters_and_stay_within_0_and_1(outcomes: list[str], hits: list[bool]) -> None:
    bench = Bench()
    for outcome in outcomes:
        bench.llm_call(outcome)
        if outcome != "ok":
            bench.metrics.degraded(outcome)
    for hit in hits:
        bench.metrics.answer_cache(hit=hit)
    success, hit_rate = bench.value("songs_ai_ai_analysis_success_rate"), bench.value("songs_ai_cache_hit_rate")
    assert success == pytest.approx(outcomes.count("ok") / len(outcomes) if outcomes else 1.0)
    assert hit_rate == pytest.approx(sum(hits) / len(hits) if hits else 0.0)


# --- the pipeline's observer ---


@pytest.mark.parametrize(
    "port",
    [
        Observer,
        GuardObserver,
        WorkerObserver,
        RequestObserver,
        DependencyObserver,
        IndexObserver,
        QueueObserver,
        BatchObserver,
        EventObserver,
        RefreshObserver,
    ],
)
def test_it_has_every_method_of_the_port(bench: Bench, port: type) -> None:
    methods = {name for name in vars(port) if not name.startswith("_")}
    assert methods
    for name in methods:
        wanted, there = inspect.signature(getattr(port, name)), inspect.signature(getattr(type(bench.metrics), name))
        assert list(wanted.parameters.values()) == list(there.parameters.values())


@pytest.mark.parametrize("name", STAGES[:-1])
def test_a_stage_is_timed(bench: Bench, name: str) -> None:
    with bench.metrics.stage(name):
        bench.clock.move(0.2)
    assert bench.value("songs_ai_stage_duration_seconds_count", stage=name) == 1
    assert bench.value("songs_ai_stage_duration_seconds_sum", stage=name) == pytest.approx(0.2)


def test_a_stage_that_fails_is_timed_too_and_its_error_goes_on(bench: Bench) -> None:
    def fails() -> None:
        with bench.metrics.stage("rank"):
            bench.clock.move(1)
            raise LookupError

    with pytest.raises(LookupError):
        fails()
    assert bench.value("songs_ai_stage_duration_seconds_sum", stage="rank") == 1


def test_stages_may_run_inside_each_other_and_side_by_side(bench: Bench) -> None:
    with bench.metrics.stage("rank"):
        bench.clock.move(1)
        with bench.metrics.stage("rank"):
            bench.clock.move(2)
    assert bench.value("songs_ai_stage_duration_seconds_sum", stage="rank") == 5


def test_llm_calls_count_outcome_time_and_tokens_of_each_model(bench: Bench) -> None:
    bench.metrics.llm_models(["small", "spare"])
    assert bench.value("songs_ai_llm_calls_total", model="spare", outcome="ok") == 0
    bench.llm_call("timeout")
    bench.llm_call("ok", model="spare")
    bench.llm_call("ok", model="spare")
    bench.llm_call("ok", model="never heard of")
    assert bench.value("songs_ai_llm_calls_total", model="small", outcome="timeout") == 1
    assert bench.value("songs_ai_llm_calls_total", model="spare", outcome="ok") == 2
    assert bench.value("songs_ai_llm_calls_total", model=OTHER, outcome="ok") == 1
    assert bench.value("songs_ai_llm_call_duration_seconds_sum", model="spare") == 4
    assert bench.value("songs_ai_llm_tokens_total", model="spare", kind="prompt") == 4000
    assert bench.value("songs_ai_llm_tokens_total", model="spare", kind="completion") == 1000
    assert bench.value("songs_ai_llm_tokens_total", model="spare", kind="cached") == 0


def test_cached_tokens_and_retries_of_llm_calls_are_counted(bench: Bench) -> None:
    bench.metrics.llm_models(["small"])
    bench.metrics.llm_call(
        model="small", outcome="ok", seconds=1, prompt_tokens=2000, completion_tokens=5, cached_tokens=1024
    )
    bench.metrics.llm_retried("rate_limited")
    assert bench.value("songs_ai_llm_tokens_total", model="small", kind="cached") == 1024
    assert bench.value("songs_ai_llm_retries_total", cause="rate_limited") == 1


def test_cost_and_breaker_are_told_by_the_models_of_the_settings(bench: Bench) -> None:
    bench.metrics.llm_guarded(["small", "large"], ceiling_usd=5)
    assert bench.value("songs_ai_llm_cost_usd_total", model="large") == 0
    bench.metrics.llm_cost("small", 0.25, spend_usd=1.5)
    bench.metrics.llm_cost("never heard of", 0.5, spend_usd=None)
    bench.metrics.llm_breaker("small", "open")
    assert bench.value("songs_ai_llm_cost_usd_total", model="small") == 0.25
    assert bench.value("songs_ai_llm_cost_usd_total", model=OTHER) == 0.5
    assert bench.value("songs_ai_llm_spend_today_usd") == 1.5
    bench.metrics.llm_spent_today(0)
    assert bench.value("songs_ai_llm_spend_today_usd") == 0
    assert bench.value("songs_ai_llm_daily_ceiling_usd") == 5
    assert bench.value("songs_ai_llm_breaker_state", model="small") == 2
    assert tuple(BreakerState) == BREAKER_STATES


def test_waits_for_the_budget_and_guards_that_are_away_are_counted(bench: Bench) -> None:
    bench.metrics.llm_budget_wait(0.5, admitted=True)
    bench.metrics.llm_budget_wait(2, admitted=False)
    bench.metrics.llm_guard_unavailable("budgets")
    assert bench.value("songs_ai_llm_budget_wait_seconds_sum", outcome="admitted") == 0.5
    assert bench.value("songs_ai_llm_budget_wait_seconds_count", outcome="refused") == 1
    assert bench.value("songs_ai_llm_guard_unavailable_total", part="budgets") == 1


def test_what_could_not_be_used_is_counted(bench: Bench) -> None:
    bench.metrics.unknown_items(3)
    bench.metrics.llm_dropped(DROP_CAUSES[0], 2)
    bench.metrics.degraded("timeout")
    assert bench.value("songs_ai_unknown_items_total") == 3
    assert bench.value("songs_ai_llm_dropped_total", cause=DROP_CAUSES[0]) == 2
    assert bench.value("songs_ai_degraded_results_total", reason="timeout") == 1


# --- the worker's observer ---


def test_a_job_is_in_flight_from_start_to_finish(bench: Bench) -> None:
    bench.metrics.job_started(source="login")
    bench.metrics.job_started(source="login")
    bench.metrics.job_finished(outcome="succeeded", source="login", seconds=2.1)
    assert bench.value("songs_ai_jobs_in_flight", source="login") == 1
    assert bench.value("songs_ai_recommendations_total", outcome="succeeded", source="login") == 1
    assert bench.value("songs_ai_recommendation_duration_seconds_sum", source="login") == pytest.approx(2.1)


def test_jobs_of_unknown_sources_end_where_they_began(bench: Bench) -> None:
    bench.metrics.job_started(source="Spring 4711")
    bench.metrics.job_finished(outcome="succeeded", source="Spring 4711", seconds=1)
    assert bench.value("songs_ai_jobs_in_flight", source=OTHER) == 0


def test_provisional_results_are_counted_and_only_written_ones_timed(bench: Bench) -> None:
    for outcome, seconds in (("written", 0.08), ("skipped", 7), ("failed", 7), ("perhaps", 7)):
        bench.metrics.provisional_result(outcome=outcome, seconds=seconds)
    for outcome in PROVISIONAL_OUTCOMES:
        assert bench.value("songs_ai_provisional_results_total", outcome=outcome) == 1
    assert bench.value("songs_ai_provisional_result_duration_seconds_sum") == pytest.approx(0.08)


def test_deliveries_are_counted_by_route_outcome_and_reason(bench: Bench) -> None:
    bench.metrics.delivery_settled(route="batch", outcome="retried", reason="timed_out")
    bench.metrics.delivery_not_settled(route="main")
    settled = bench.value("songs_ai_deliveries_settled_total", route="batch", outcome="retried", reason="timed_out")
    assert settled == 1
    assert bench.value("songs_ai_deliveries_not_settled_total", route="main") == 1


def test_retries_and_what_waits_for_one_are_told_by_delay(bench: Bench) -> None:
    delays = [step.label for step in build_topology().main.retries]
    assert delays == ["5s", "30s", "120s"]
    bench.metrics.retries_watched(delays)
    for route in ("main", "batch"):
        for delay in delays:
            assert bench.value("songs_ai_retries_total", route=route, delay=delay) == 0
            assert bench.value("songs_ai_jobs_waiting", route=route, delay=delay) == 0
    bench.metrics.delivery_retried(route="batch", delay="30s")
    bench.metrics.jobs_waiting(route="main", delay="120s", n=7)
    bench.metrics.dead_letters(kind="jobs", n=3)
    assert bench.value("songs_ai_retries_total", route="batch", delay="30s") == 1
    assert bench.value("songs_ai_jobs_waiting", route="main", delay="120s") == 7
    assert bench.value("songs_ai_dead_letters", kind="jobs") == 3
    assert bench.value("songs_ai_dead_letters", kind="events") == 0


def test_queues_and_waits_are_told_by_route(bench: Bench) -> None:
    assert bench.value("songs_ai_queue_oldest_age_seconds", route="batch") is None
    bench.metrics.messages_waiting(route="batch", n=7, oldest_s=61.5)
    bench.metrics.job_waited(route="batch", seconds=0.2)
    assert bench.value("songs_ai_queue_messages", route="batch") == 7
    assert bench.value("songs_ai_queue_oldest_age_seconds", route="batch") == 61.5
    assert bench.value("songs_ai_job_wait_seconds_bucket", route="batch", le="0.1") == 0
    assert bench.value("songs_ai_job_wait_seconds_bucket", route="batch", le="0.25") == 1


def test_what_a_worker_cannot_know_of_a_queue_it_does_not_tell(bench: Bench) -> None:
    bench.metrics.messages_waiting(route="main", n=7, oldest_s=61.5)
    bench.metrics.messages_waiting(route="main", n=500, oldest_s=None)
    bench.metrics.messages_waiting(route="batch", n=1, oldest_s=2)
    assert bench.value("songs_ai_queue_messages", route="main") == 500
    assert bench.value("songs_ai_queue_oldest_age_seconds", route="main") is None
    assert bench.value("songs_ai_queue_oldest_age_seconds", route="batch") == 2
    bench.metrics.messages_unseen()
    assert bench.value("songs_ai_queue_messages", route="batch") is None
    assert bench.value("songs_ai_queue_oldest_age_seconds", route="batch") is None


def test_the_labels_are_those_that_the_worker_uses() -> None:
    topology = build_topology()
    assert {topology.main.name, topology.batch.name, topology.events.name, OTHER} == set(ROUTES)
    assert {source_label(source) for source in [*KNOWN_SOURCES, None, "x"]} == set(SOURCES)
    known = {"acked": AckReason, "retried": RetryReason, "dead_lettered": DeadLetterReason}
    assert {outcome: set(reasons) for outcome, reasons in known.items()} == {
        outcome: set(reasons) for outcome, reasons in SETTLED_REASONS.items()
    }


def test_the_labels_are_those_that_the_reranker_uses() -> None:
    spoilt = {"groups": [1, {"picks": [{"h": 1, "r": ""}, {"h": 1}, {"h": 7}, {"h": "x"}]}], "taste": 1}
    item = make_item(1)
    answer = parse_answer(json.dumps(spoilt), {1: make_candidate(item)})
    said = "So much like “Vogue”"
    group = AnswerGroup(said, said, (Choice(make_candidate(item), said),))
    truth = Truth(ClaimRules(ClaimWords(), ()), [item], [])
    untrue = only_true(Answer(groups=(group,), taste=said), truth)
    korean = Script(load_prompt_texts().locales["ko"])
    foreign = only_written_in(Answer(groups=(group,), taste=said), korean, truth)
    assert {*answer.dropped, *untrue.dropped, *foreign.dropped, OTHER} == set(DROP_CAUSES)
    assert {MALFORMED, INCOMPLETE, NOT_EMBEDDED} < set(FLAWS)


def test_a_wish_that_could_not_be_searched_for_says_nothing_of_the_llm(bench: Bench) -> None:
    bench.llm_call("ok")
    bench.metrics.degraded(NOT_EMBEDDED)
    assert bench.value("songs_ai_degraded_results_total", reason=NOT_EMBEDDED) == 1
    assert bench.value("songs_ai_ai_analysis_success_rate") == 1.0


def test_answers_are_counted_and_timed_by_arm(bench: Bench) -> None:
    bench.metrics.answered(arm="llm", kind="new", seconds=2)
    bench.metrics.answered(arm="ranking", kind="reused", seconds=0.01)
    assert bench.value("songs_ai_arm_answers_total", arm="llm", kind="new") == 1
    assert bench.value("songs_ai_arm_answers_total", arm="ranking", kind="reused") == 1
    assert bench.value("songs_ai_arm_answer_duration_seconds_sum", arm="llm") == 2
    assert {arm.value for arm in Arm} | {OTHER} == set(ARMS)


# --- labels ---


def test_whatever_is_observed_no_new_series_appears_beyond_other(bench: Bench) -> None:
    metrics = bench.metrics

    def observe(value: str) -> None:
        with metrics.stage(value):
            pass
        metrics.llm_call(model=value, outcome=value, seconds=1, prompt_tokens=1, completion_tokens=1)
        metrics.llm_retried(value)
        metrics.llm_dropped(value, 1)
        metrics.degraded(value)
        metrics.answered(arm=value, kind=value, seconds=1)
        metrics.job_started(source=value)
        metrics.job_finished(outcome=value, source=value, seconds=1)
        metrics.provisional_result(outcome=value, seconds=1)
        metrics.delivery_settled(route=value, outcome=value, reason=value)
        metrics.delivery_not_settled(route=value)
        metrics.delivery_retried(route=value, delay=value)
        metrics.jobs_waiting(route=value, delay=value, n=1)
        metrics.messages_waiting(route=value, n=1, oldest_s=1)
        metrics.job_waited(route=value, seconds=1)
        metrics.http_request(route=value, status=200, seconds=1)

    observe("member 4711")
    n_series = bench.n_series
    for number in range(50):
        observe(f"member {number}")
    assert bench.n_series == n_series
    assert not re.search(r"member \d", bench.metrics.expose("")[0].decode())


def test_every_child_exists_before_anything_happened(bench: Bench) -> None:
    for outcome in JOB_OUTCOMES:
        for source in SOURCES:
            assert bench.value("songs_ai_recommendations_total", outcome=outcome, source=source) == 0
    for stage in STAGES:
        assert bench.value("songs_ai_stage_duration_seconds_count", stage=stage) == 0
    for outcome, reasons in SETTLED_REASONS.items():
        for reason in reasons:
            labels = {"route": "main", "outcome": outcome, "reason": reason}
            assert bench.value("songs_ai_deliveries_settled_total", **labels) == 0
    for route in HTTP_ROUTES:
        assert bench.value("songs_ai_http_requests_total", route=route, code="5xx") == 0
    assert OTHER in REASONS


# --- the process ---


def test_build_and_process_are_described(bench: Bench) -> None:
    exposition = bench.metrics.expose("")[0].decode()
    assert re.search(r'songs_ai_build_info\{python_version="3[.0-9]+",version="1\.2\.3"\} 1\.0', exposition)
    assert "process_resident_memory_bytes" in exposition


def test_the_index_in_force_replaces_the_one_before(bench: Bench) -> None:
    bench.metrics.index_loaded(version="v1", embedder_name="hashing-1-128", n_items=10, recall=0.995)
    bench.clock.move(60)
    bench.metrics.index_loaded(version="v2", embedder_name="hashing-1-128", n_items=12, recall=0.995)
    assert bench.value("songs_ai_index_items") == 12
    assert bench.value("songs_ai_index_recall_ratio") == 0.995
    assert bench.value("songs_ai_index_loaded_timestamp_seconds") == bench.clock.now().timestamp()
    assert bench.value("songs_ai_index_info", version="v1", embedder="hashing-1-128") is None
    assert bench.value("songs_ai_index_info", version="v2", embedder="hashing-1-128") == 1


def test_how_far_the_index_is_behind_is_asked_when_it_is_scraped(bench: Bench) -> None:
    assert isnan(bench.value("songs_ai_index_behind_seconds") or 0)
    bench.clock.move(5)
    known: list[float | None] = [None]
    bench.metrics.index_watched(lambda: known[0])
    bench.clock.move(7)
    assert bench.value("songs_ai_index_behind_seconds") == 7
    known[0] = 1.5
    assert bench.value("songs_ai_index_behind_seconds") == 1.5


def test_the_collaborative_model_in_force_replaces_the_one_before(bench: Bench) -> None:
    assert bench.value("songs_ai_collaborative_items") == 0
    bench.metrics.collaborative_loaded(version="m1", n_items=10, recall=1.0)
    bench.clock.move(60)
    bench.metrics.collaborative_loaded(version="m2", n_items=12, recall=0.995)
    assert bench.value("songs_ai_collaborative_items") == 12
    assert bench.value("songs_ai_collaborative_recall_ratio") == 0.995
    assert bench.value("songs_ai_collaborative_loaded_timestamp_seconds") == bench.clock.now().timestamp()
    assert bench.value("songs_ai_collaborative_info", version="m1") is None
    assert bench.value("songs_ai_collaborative_info", version="m2") == 1


def test_a_dependency_is_up_or_down(bench: Bench) -> None:
    bench.metrics.dependency_checked("mysql", up=True, seconds=0.002)
    bench.metrics.dependency_checked("redis", up=False, seconds=1.0)
    assert bench.value("songs_ai_dependency_up", dependency="mysql") == 1
    assert bench.value("songs_ai_dependency_up", dependency="redis") == 0
    assert bench.value("songs_ai_dependency_check_duration_seconds", dependency="redis") == 1.0


class LoopSeen:
    """Keeps what it is told of the loop; ``enough`` is set at the ``n``-th time."""

    def __init__(self, n: int) -> None:
        self.lags_s: list[float] = []
        self.n_tasks: list[int] = []
        self.enough = asyncio.Event()
        self._n = n

    def loop_lag(self, seconds: float) -> None:
        self.lags_s.append(seconds)

    def loop_tasks(self, n: int) -> None:
        self.n_tasks.append(n)
        if len(self.n_tasks) >= self._n:
            self.enough.set()


@asynccontextmanager
async def watching(seen: LoopSeen, clock: Clock, interval_s: float) -> AsyncIterator[None]:
    watch = asyncio.create_task(watch_loop(seen, clock=clock, interval_s=interval_s))
    await asyncio.wait_for(seen.enough.wait(), 5)
    yield
    watch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watch


async def test_a_callback_that_hogs_the_event_loop_shows_as_lag() -> None:
    seen = LoopSeen(1)
    async with watching(seen, SystemClock(), 0.01):
        seen.lags_s.clear()
        seen.enough.clear()
        time.sleep(0.1)  # noqa: ASYNC251 - this is the hog
        await asyncio.wait_for(seen.enough.wait(), 5)
    assert 0.05 < seen.lags_s[0] < 5


async def test_lag_is_never_negative() -> None:
    seen = LoopSeen(3)
    async with watching(seen, HandClock(), 0.001):
        assert seen.lags_s[:3] == [0.0, 0.0, 0.0]


async def test_a_task_that_never_ends_is_counted() -> None:
    seen = LoopSeen(1)
    async with watching(seen, SystemClock(), 0.001):
        before = seen.n_tasks[-1]
        endless = [asyncio.create_task(asyncio.Event().wait()) for _ in range(3)]
        seen.enough.clear()
        await asyncio.wait_for(seen.enough.wait(), 5)
        assert seen.n_tasks[-1] == before + 3
        for task in endless:
            task.cancel()
        await asyncio.wait(endless)


def test_the_number_of_tasks_is_the_last_one_seen(bench: Bench) -> None:
    bench.metrics.loop_tasks(30)
    bench.metrics.loop_tasks(17)
    assert bench.value("songs_ai_event_loop_tasks") == 17


def test_loop_lag_is_a_histogram(bench: Bench) -> None:
    bench.metrics.loop_lag(0.03)
    assert bench.value("songs_ai_event_loop_lag_seconds_bucket", le="0.025") == 0
    assert bench.value("songs_ai_event_loop_lag_seconds_bucket", le="0.05") == 1


# --- batches ---


def test_what_batches_came_to_is_what_was_read_last(bench: Bench) -> None:
    for n in (3, 5):
        bench.metrics.batches_totalled(BatchTotals(BatchUsage(100 * n, 10 * n, n, n / 4), {"merged": n, "stale": 1}))
    assert bench.value("songs_ai_llm_batch_requests_total", outcome="merged") == 5
    assert bench.value("songs_ai_llm_batch_requests_total", outcome="stale") == 1
    tokens = {kind: bench.value("songs_ai_llm_batch_tokens_total", kind=kind) for kind in TOKEN_KINDS}
    assert tokens == {"prompt": 500, "completion": 50, "cached": 5}
    assert bench.value("songs_ai_llm_batch_cost_usd_total") == 1.25


def test_batches_that_were_not_read_yet_are_not_taken_for_none(bench: Bench) -> None:
    said = bench.metrics.expose("")[0].decode()
    assert "# TYPE songs_ai_llm_batch_requests_total counter" in said
    assert not re.search("^songs_ai_llm_batch", said, re.MULTILINE)


# --- the document ---


def exposed(bench: Bench) -> dict[str, tuple[str, str]]:
    """Type and labels (comma-separated) of every metric, by the name that the text format gives it."""
    suffix = {"counter": "_total", "info": "_info"}
    labels: dict[str, tuple[str, str]] = {}
    for family in bench.registry.collect():
        names = sorted({name for sample in family.samples for name in sample.labels} - {"le"})
        labels[family.name + suffix.get(family.type, "")] = (family.type, ", ".join(f"`{name}`" for name in names))
    return labels


def test_the_document_tells_of_every_metric_and_of_no_other() -> None:
    bench = Bench()
    bench.metrics.dependency_checked("mysql", up=True, seconds=0.1)
    bench.metrics.index_loaded(version="v", embedder_name="e", n_items=1, recall=0.995)
    bench.metrics.collaborative_loaded(version="m", n_items=1, recall=1.0)
    bench.metrics.messages_waiting(route="main", n=0, oldest_s=0)
    bench.metrics.task_succeeded("refresh", HandClock().now())
    bench.metrics.batches_totalled(BatchTotals(BatchUsage(), {"merged": 0}))
    documented = {name: (kind, labels) for name, kind, labels in _ROW.findall(DOCUMENT.read_text(encoding="utf-8"))}
    assert documented == exposed(bench)


def test_every_metric_has_a_help_text_and_ours_a_base_unit(bench: Bench) -> None:
    of_money_and_state = ("_usd", "_state", "_leader")
    of_counts = ("_messages", "_in_flight", "_tasks", "_waiting", "_dead_letters")
    of_what_is_loaded = ("_items", "_build", "_index", "_collaborative")
    units = (*of_money_and_state, *of_what_is_loaded, "_seconds", "_bytes", "_rate", "_ratio", "_up", *of_counts)
    for family in bench.registry.collect():
        assert family.documentation
        if family.name.startswith("songs_ai_") and family.type != "counter":
            assert family.name.endswith(units), family.name


def test_a_child_is_made_once_however_often_its_metric_is_prepared() -> None:
    registry = CollectorRegistry()
    counter = Counter("seen", "What was seen.", ["kind"], registry=registry)
    for kinds in (("a", "b"), ("b", "c")):
        labelled(counter, kinds)
    counter.labels("b").inc()
    counter.labels("b").inc()
    assert counter.labels("b") is counter.labels("b")
    assert {kind: registry.get_sample_value("seen_total", {"kind": kind}) for kind in "abc"} == {"a": 0, "b": 2, "c": 0}
