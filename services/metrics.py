"""What Prometheus sees. ``docs/metrics.md`` describes every metric; a test holds the two together.

Labels are bounded: a value that is not in the lists below is counted as ``other``, and no label ever holds a member's,
an item's or a job's id. All children exist from the start, so that a rate or a panel is zero rather than absent.
"""

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import product
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from config.schedule import TASK_NAMES
from core.errors import LANGUAGE_MODEL_FAILURES
from core.llm_share import Arm
from core.ports import BatchTotals, Clock
from core.schedule import TaskOutcome
from core.wish_stage import NOT_EMBEDDED
from models.event import EventType

M = TypeVar("M", Counter, Gauge, Histogram)

OTHER = "other"
SOURCES = ("login", "manual", "refresh", "http", "favorites", "replay", "none", OTHER)
JOB_OUTCOMES = ("succeeded", "retried", "dead_lettered", "cancelled", OTHER)
ROUTES = ("main", "batch", "events", OTHER)
JOB_ROUTES = ("main", "batch")
DEAD_LETTER_KINDS = ("jobs", "events")
SETTLED_REASONS = {
    "acked": ("succeeded", "succeeded_before", "failed_before", "stale", "forgotten"),
    "retried": ("dependency_unavailable", "timed_out", "running_elsewhere", "outcome_not_recorded"),
    "dead_lettered": ("invalid", "attempts_used_up", "unexpected", "delivered_too_often"),
}
REASONS = (*(reason for reasons in SETTLED_REASONS.values() for reason in reasons), OTHER)
PROVISIONAL_OUTCOMES = ("written", "skipped", "failed", OTHER)
STAGES = ("listener", "retrieve", "hydrate", "rank", "rerank", "save", OTHER)
LLM_FAILURES = (*LANGUAGE_MODEL_FAILURES, OTHER)
LLM_RETRY_CAUSES = (
    "rate_limited", "unavailable", "response_format", "length_limit", "temperature", "stream_options", OTHER,
)  # fmt: skip
LLM_OUTCOMES = ("ok", "cancelled", *LLM_FAILURES)
FLAWS = ("incomplete", *LLM_FAILURES, NOT_EMBEDDED)
DROP_CAUSES = (
    "unknown_handle", "repeated_handle", "bad_pick", "bad_group", "bad_reason", "bad_taste",
    "untrue_reason", "untrue_label", "untrue_tagline", "untrue_taste",
    "foreign_reason", "foreign_label", "foreign_tagline", "foreign_taste", OTHER,
)  # fmt: skip
ARMS = (*(arm.value for arm in Arm), OTHER)
ANSWER_KINDS = ("new", "degraded", "reused", OTHER)
GUARD_PARTS = ("breaker", "budgets", OTHER)
BREAKER_STATES = ("closed", "half_open", "open")
EVENT_KINDS = (*(kind.value for kind in EventType), OTHER)
EVENT_OUTCOMES = ("kept", "late", "invalid", "failed", OTHER)
REQUESTED_REFRESHES = ("published", "not_needed", "failed", OTHER)
TASK_OUTCOMES = tuple(outcome.value for outcome in TaskOutcome)
HTTP_ROUTES = (
    "/health", "/health/live", "/health/ready", "/metrics", "/recommend", "/recommend/cached", "/favorites/updated",
    "/warm/active", OTHER,
)  # fmt: skip
HTTP_CODES = ("2xx", "3xx", "4xx", "5xx")

# An answer costs an LLM call of some two seconds, or none at all: the buckets are finest around both.
_JOB_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 2.25, 2.5, 3, 4, 6, 8, 12, 20, 30, 60)
_STAGE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 2.5, 3, 5, 10, 20)
_LLM_BUCKETS_S = (0.25, 0.5, 1, 1.5, 2, 2.5, 3, 4, 6, 8, 12, 20, 30)
_PROVISIONAL_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)
_BATCH_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_SHORT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class _PipelineMetrics:
    """The ``Observer`` of the core."""

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self._pipeline_clock = clock
        self._stages = _labelled(
            Histogram(
                "songs_ai_stage_duration_seconds",
                "Time one stage of the pipeline took.",
                ["stage"],
                buckets=_STAGE_BUCKETS_S,
                registry=registry,
            ),
            STAGES,
        )
        self._unknown_items = Counter(
            "songs_ai_unknown_items_total", "Liked ids that the index does not hold.", registry=registry
        )
        self._answer_cache = _labelled(
            Counter(
                "songs_ai_answer_cache_lookups_total",
                "Looks for a finished answer by fingerprint.",
                ["result"],
                registry=registry,
            ),
            ("hit", "miss"),
        )
        Gauge(
            "songs_ai_cache_hit_rate",
            "Share of answer cache look-ups that hit, since the start; 0 before the first.",
            registry=registry,
        ).set_function(self._hit_rate)

        self._arm_answers = _labelled(
            Counter(
                "songs_ai_arm_answers_total",
                "Answers by arm of LLM_SHARE.",
                ["arm", "kind"],
                registry=registry,
            ),
            ARMS[:-1],
            ANSWER_KINDS[:-1],
        )
        self._arm_duration = _labelled(
            Histogram(
                "songs_ai_arm_answer_duration_seconds",
                "Time that answers took, by arm.",
                ["arm"],
                buckets=_STAGE_BUCKETS_S,
                registry=registry,
            ),
            ARMS[:-1],
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage, also where it fails."""
        started_s = self._pipeline_clock.monotonic_s()
        try:
            yield
        finally:
            self._stages.labels(_bounded(name, STAGES)).observe(self._pipeline_clock.monotonic_s() - started_s)

    def unknown_items(self, n: int) -> None:
        """Liked ids that the index does not hold."""
        self._unknown_items.inc(n)

    def answer_cache(self, *, hit: bool) -> None:
        """A look-up by fingerprint."""
        self._answer_cache.labels("hit" if hit else "miss").inc()

    def answered(self, *, arm: str, kind: str, seconds: float) -> None:
        """A job of ``arm`` was answered."""
        arm = _bounded(arm, ARMS)
        self._arm_answers.labels(arm, _bounded(kind, ANSWER_KINDS)).inc()
        self._arm_duration.labels(arm).observe(seconds)

    def _hit_rate(self) -> float:
        n_lookups = _total(self._answer_cache)
        return _total(self._answer_cache.labels("hit")) / n_lookups if n_lookups else 0.0


class _LanguageModelMetrics:
    """The part of the ``Observer`` that sees the LLM."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._llm_calls = Counter(
            "songs_ai_llm_calls_total", "LLM calls by model and outcome.", ["model", "outcome"], registry=registry
        )
        self._llm_duration = Histogram(
            "songs_ai_llm_call_duration_seconds",
            "Time one LLM call took, the client's retries included.",
            ["model"],
            buckets=_LLM_BUCKETS_S,
            registry=registry,
        )
        self._llm_tokens = Counter(
            "songs_ai_llm_tokens_total", "Tokens that LLM calls used.", ["model", "kind"], registry=registry
        )
        self.llm_models(())
        self._llm_retries = _labelled(
            Counter(
                "songs_ai_llm_retries_total", "Requests beyond the first of an LLM call.", ["cause"], registry=registry
            ),
            LLM_RETRY_CAUSES,
        )
        self._llm_dropped = _labelled(
            Counter(
                "songs_ai_llm_dropped_total",
                "Parts of LLM answers that could not be used.",
                ["cause"],
                registry=registry,
            ),
            DROP_CAUSES,
        )
        self._degraded = _labelled(
            Counter(
                "songs_ai_degraded_results_total",
                "Results that lack the LLM's judgement, or the search for a wish, although it was asked for.",
                ["reason"],
                registry=registry,
            ),
            FLAWS,
        )
        Gauge(
            "songs_ai_ai_analysis_success_rate",
            "Share of ended LLM calls that left no degraded result, since the start; 1 before the first.",
            registry=registry,
        ).set_function(self._success_rate)

    def llm_models(self, models: Sequence[str]) -> None:
        """These models may be asked."""
        self._models = tuple(models)
        each = (*self._models, OTHER)
        _labelled(self._llm_calls, each, LLM_OUTCOMES)
        _labelled(self._llm_duration, each)
        _labelled(self._llm_tokens, each, ("prompt", "completion", "cached"))

    def llm_call(
        self,
        *,
        model: str,
        outcome: str,
        seconds: float,
        prompt_tokens: int,
        completion_tokens: int,
        cached_tokens: int = 0,
    ) -> None:
        """One call of ``model``; ``outcome`` is ``ok`` or the reason of ``LanguageModelFailed``."""
        model = _bounded(model, self._models)
        self._llm_calls.labels(model, _bounded(outcome, LLM_OUTCOMES)).inc()
        self._llm_duration.labels(model).observe(seconds)
        self._llm_tokens.labels(model, "prompt").inc(prompt_tokens)
        self._llm_tokens.labels(model, "completion").inc(completion_tokens)
        self._llm_tokens.labels(model, "cached").inc(cached_tokens)

    def llm_retried(self, cause: str) -> None:
        """A further request of the same call: after a failure, or without what the endpoint refused."""
        self._llm_retries.labels(_bounded(cause, LLM_RETRY_CAUSES)).inc()

    def llm_dropped(self, cause: str, n: int) -> None:
        """Parts of an LLM answer that could not be used."""
        self._llm_dropped.labels(_bounded(cause, DROP_CAUSES)).inc(n)

    def degraded(self, reason: str) -> None:
        """A result that lacks what was asked for: the LLM's judgement, or the search for a wish."""
        self._degraded.labels(_bounded(reason, FLAWS)).inc()

    def _success_rate(self) -> float:
        # A call may end well and its answer be unusable all the same: what counts is the result, where there is one.
        n_degraded = _total(self._degraded) - _total(self._degraded.labels(NOT_EMBEDDED))
        n_ended = _total(self._llm_calls) - _total(self._llm_calls, outcome="cancelled")
        n_asked = max(n_ended, n_degraded)
        return 1.0 - n_degraded / n_asked if n_asked else 1.0


class _GuardMetrics:
    """The ``GuardObserver``: what stands before the calls of the LLM."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._cost = Counter(
            "songs_ai_llm_cost_usd_total",
            "What LLM calls cost, by the prices in the settings.",
            ["model"],
            registry=registry,
        )
        self._spend = Gauge(
            "songs_ai_llm_spend_today_usd", "What all workers spent today, as last heard.", registry=registry
        )
        self._ceiling = Gauge(
            "songs_ai_llm_daily_ceiling_usd", "What may be spent a day; 0: no limit.", registry=registry
        )
        self._breaker_state = Gauge(
            "songs_ai_llm_breaker_state",
            "0: closed, 1: half open, 2: open; as last heard.",
            ["model"],
            registry=registry,
        )
        self._budget_wait = _labelled(
            Histogram(
                "songs_ai_llm_budget_wait_seconds",
                "How long LLM calls waited for room in the budget.",
                ["outcome"],
                buckets=_SHORT_BUCKETS_S,
                registry=registry,
            ),
            ("admitted", "refused"),
        )
        self._guard_unavailable = _labelled(
            Counter(
                "songs_ai_llm_guard_unavailable_total",
                "Times that breaker or budgets could not be asked.",
                ["part"],
                registry=registry,
            ),
            GUARD_PARTS,
        )
        self._guarded: tuple[str, ...] = ()
        self.llm_guarded((), ceiling_usd=0.0)

    def llm_guarded(self, models: Sequence[str], *, ceiling_usd: float) -> None:
        """These models are asked, for at most so much a day (0: no limit)."""
        self._guarded = tuple(models)
        self._ceiling.set(ceiling_usd)
        _labelled(self._cost, (*self._guarded, OTHER))
        _labelled(self._breaker_state, (*self._guarded, OTHER))

    def llm_cost(self, model: str, usd: float, *, spend_usd: float | None) -> None:
        """A call cost so much; ``spend_usd`` is what all workers spent today, None where that could not be asked."""
        self._cost.labels(_bounded(model, self._guarded)).inc(usd)
        if spend_usd is not None:
            self._spend.set(spend_usd)

    def llm_breaker(self, model: str, state: str) -> None:
        """The breaker of a model is ``closed``, ``half_open`` or ``open``, as this worker last heard."""
        self._breaker_state.labels(_bounded(model, self._guarded)).set(BREAKER_STATES.index(state))

    def llm_budget_wait(self, seconds: float, *, admitted: bool) -> None:
        """A call waited so long for room in the budget, and got it or not."""
        self._budget_wait.labels("admitted" if admitted else "refused").observe(seconds)

    def llm_guard_unavailable(self, part: str) -> None:
        """``breaker`` or ``budgets`` could not be asked, since Redis is away."""
        self._guard_unavailable.labels(_bounded(part, GUARD_PARTS)).inc()


class _BatchMetrics(Collector):
    """What batches of LLM requests came to, by the books that all workers share.

    Before they are read there is no series: one that began with zero would look like a reset, and all that was ever
    counted like new.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._batch_totals: BatchTotals | None = None
        registry.register(self)

    def batches_totalled(self, totals: BatchTotals) -> None:
        """All batches since the beginning of the books."""
        self._batch_totals = totals

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The families, as a registry asks for them."""
        requests = CounterMetricFamily(
            "songs_ai_llm_batch_requests",
            "Requests of ended batches by what became of their answers.",
            labels=["outcome"],
        )
        tokens = CounterMetricFamily("songs_ai_llm_batch_tokens", "Tokens that batches used.", labels=["kind"])
        cost = CounterMetricFamily(
            "songs_ai_llm_batch_cost_usd", "What batches cost, by the prices in the settings.", labels=[]
        )
        if (totals := self._batch_totals) is not None:
            for outcome, n in totals.outcomes.items():
                requests.add_metric([outcome], n)
            for kind in ("prompt", "completion", "cached"):
                tokens.add_metric([kind], getattr(totals.usage, f"{kind}_tokens"))
            cost.add_metric([], totals.usage.cost_usd)
        yield from (requests, tokens, cost)


class _WorkerMetrics:
    """What becomes of jobs and of deliveries."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._recommendations = _labelled(
            Counter(
                "songs_ai_recommendations_total",
                "Jobs that were handled, by what became of them.",
                ["outcome", "source"],
                registry=registry,
            ),
            JOB_OUTCOMES,
            SOURCES,
        )
        self._duration = _labelled(
            Histogram(
                "songs_ai_recommendation_duration_seconds",
                "Time from a job's delivery to the end of its handling.",
                ["source"],
                buckets=_JOB_BUCKETS_S,
                registry=registry,
            ),
            SOURCES,
        )
        self._in_flight = _labelled(
            Gauge("songs_ai_jobs_in_flight", "Jobs under way in this worker.", ["source"], registry=registry), SOURCES
        )
        self._provisional = _labelled(
            Counter(
                "songs_ai_provisional_results_total",
                "Jobs that came to ask the LLM, by what became of a provisional result.",
                ["outcome"],
                registry=registry,
            ),
            PROVISIONAL_OUTCOMES,
        )
        self._provisional_duration = Histogram(
            "songs_ai_provisional_result_duration_seconds",
            "Time from a job's delivery until its provisional result was written.",
            buckets=_PROVISIONAL_BUCKETS_S,
            registry=registry,
        )
        self._settled = Counter(
            "songs_ai_deliveries_settled_total",
            "Deliveries by what the broker was told, and why.",
            ["route", "outcome", "reason"],
            registry=registry,
        )
        for outcome, reasons in SETTLED_REASONS.items():
            _labelled(self._settled, ROUTES[:-1], (outcome,), reasons)
        self._retries = Counter(
            "songs_ai_retries_total", "Deliveries sent to a retry queue.", ["route", "delay"], registry=registry
        )
        self._waiting = Gauge(
            "songs_ai_jobs_waiting", "Jobs in a retry queue, as last seen.", ["route", "delay"], registry=registry
        )
        self._dead_letters = _labelled(
            Gauge(
                "songs_ai_dead_letters", "Messages in a dead-letter queue, as last seen.", ["kind"], registry=registry
            ),
            DEAD_LETTER_KINDS,
        )
        self._delays: tuple[str, ...] = ()
        self.retries_watched(())
        self._not_settled = _labelled(
            Counter(
                "songs_ai_deliveries_not_settled_total",
                "Deliveries that the broker could not be told about, and will deliver again.",
                ["route"],
                registry=registry,
            ),
            ROUTES[:-1],
        )

    def job_started(self, *, source: str) -> None:
        """A job was claimed and is being run."""
        self._in_flight.labels(_bounded(source, SOURCES)).inc()

    def job_finished(self, *, outcome: str, source: str, seconds: float) -> None:
        """A started job ended, ``seconds`` after its delivery."""
        source = _bounded(source, SOURCES)
        self._in_flight.labels(source).dec()
        self._recommendations.labels(_bounded(outcome, JOB_OUTCOMES), source).inc()
        self._duration.labels(source).observe(seconds)

    def provisional_result(self, *, outcome: str, seconds: float) -> None:
        """Of a provisional result: ``written`` ``seconds`` after the delivery, ``skipped`` or ``failed``."""
        self._provisional.labels(_bounded(outcome, PROVISIONAL_OUTCOMES)).inc()
        if outcome == "written":
            self._provisional_duration.observe(seconds)

    def delivery_settled(self, *, route: str, outcome: str, reason: str) -> None:
        """The broker was told what becomes of a delivery."""
        self._settled.labels(
            _bounded(route, ROUTES), _bounded(outcome, (*SETTLED_REASONS, OTHER)), _bounded(reason, REASONS)
        ).inc()

    def retries_watched(self, delays: Sequence[str]) -> None:
        """There are retry queues of these delays, such as ``5s``."""
        self._delays = tuple(delays)
        _labelled(self._retries, JOB_ROUTES, (*self._delays, OTHER))
        _labelled(self._waiting, JOB_ROUTES, (*self._delays, OTHER))

    def delivery_retried(self, *, route: str, delay: str) -> None:
        """A delivery was sent to the retry queue of ``delay``."""
        self._retries.labels(_bounded(route, ROUTES), _bounded(delay, self._delays)).inc()

    def jobs_waiting(self, *, route: str, delay: str, n: int) -> None:
        """So many jobs wait in the retry queue of ``delay``."""
        self._waiting.labels(_bounded(route, ROUTES), _bounded(delay, self._delays)).set(n)

    def dead_letters(self, *, kind: str, n: int) -> None:
        """So many messages are in the dead-letter queue of ``kind``."""
        self._dead_letters.labels(_bounded(kind, (*DEAD_LETTER_KINDS, OTHER))).set(n)

    def delivery_not_settled(self, *, route: str) -> None:
        """The broker could not be told; it will deliver again."""
        self._not_settled.labels(_bounded(route, ROUTES)).inc()


class _ProcessMetrics:
    """The process and what it depends on."""

    def __init__(self, registry: CollectorRegistry, clock: Clock, version: str) -> None:
        self._process_clock = clock
        Info("songs_ai_build", "What runs here.", registry=registry).info(
            {"version": version, "python_version": platform.python_version()}
        )
        self._dependency_up = Gauge(
            "songs_ai_dependency_up",
            "Whether the last check of a dependency found it in order.",
            ["dependency"],
            registry=registry,
        )
        self._dependency_latency = Gauge(
            "songs_ai_dependency_check_duration_seconds",
            "Time the last check of a dependency took.",
            ["dependency"],
            registry=registry,
        )
        self._loop_lag = Histogram(
            "songs_ai_event_loop_lag_seconds",
            "How much later than asked a sleep ended.",
            buckets=_SHORT_BUCKETS_S,
            registry=registry,
        )
        self._loop_tasks = Gauge(
            "songs_ai_event_loop_tasks", "Tasks of the event loop that have not ended, as last seen.", registry=registry
        )
        self._index_items = Gauge("songs_ai_index_items", "Items in the index in force.", registry=registry)
        self._index_recall = Gauge(
            "songs_ai_index_recall_ratio",
            "Recall@200 of the index in force against an exact scan, on a sample of queries.",
            registry=registry,
        )
        self._index_loaded = Gauge(
            "songs_ai_index_loaded_timestamp_seconds",
            "When the index in force was loaded, seconds since the epoch; 0 before the first.",
            registry=registry,
        )
        self._index = Info("songs_ai_index", "The index in force.", registry=registry)
        self._collaborative_items = Gauge(
            "songs_ai_collaborative_items", "Items in the collaborative model in force.", registry=registry
        )
        self._collaborative_recall = Gauge(
            "songs_ai_collaborative_recall_ratio",
            "Recall@200 of the search by the collaborative model in force, on a sample of listeners.",
            registry=registry,
        )
        self._collaborative_loaded = Gauge(
            "songs_ai_collaborative_loaded_timestamp_seconds",
            "When the collaborative model in force was loaded, seconds since the epoch; 0 before the first.",
            registry=registry,
        )
        self._collaborative = Info("songs_ai_collaborative", "The collaborative model in force.", registry=registry)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def dependency_checked(self, name: str, *, up: bool, seconds: float) -> None:
        """A health check ended; ``name`` is one of the few that the composition root gave."""
        self._dependency_up.labels(name).set(up)
        self._dependency_latency.labels(name).set(seconds)

    def loop_lag(self, seconds: float) -> None:
        """A sleep ended so much too late."""
        self._loop_lag.observe(seconds)

    def loop_tasks(self, n: int) -> None:
        """So many tasks have not ended."""
        self._loop_tasks.set(n)

    def index_loaded(self, *, version: str, embedder_name: str, n_items: int, recall: float) -> None:
        """Another index is in force from now on; ``recall`` is its own, at 200, on a sample."""
        self._index_items.set(n_items)
        self._index_recall.set(recall)
        self._index_loaded.set(self._process_clock.now().timestamp())
        self._index.info({"version": version, "embedder": embedder_name})

    def collaborative_loaded(self, *, version: str, n_items: int, recall: float) -> None:
        """Another collaborative model is in force from now on; ``recall`` is that of its search, at 200."""
        self._collaborative_items.set(n_items)
        self._collaborative_recall.set(recall)
        self._collaborative_loaded.set(self._process_clock.now().timestamp())
        self._collaborative.info({"version": version})


class _HttpMetrics:
    """The HTTP server's requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = _labelled(
            Counter(
                "songs_ai_http_requests_total",
                "HTTP requests by route and class of status code.",
                ["route", "code"],
                registry=registry,
            ),
            HTTP_ROUTES,
            HTTP_CODES,
        )
        self._request_duration = _labelled(
            Histogram(
                "songs_ai_http_request_duration_seconds",
                "Time one HTTP request took.",
                ["route"],
                buckets=_SHORT_BUCKETS_S,
                registry=registry,
            ),
            HTTP_ROUTES,
        )

    def http_request(self, *, route: str, status: int, seconds: float) -> None:
        """A request was answered; ``route`` is the template of its path."""
        route = _bounded(route, HTTP_ROUTES)
        self._requests.labels(route, f"{status // 100}xx").inc()
        self._request_duration.labels(route).observe(seconds)


class _ScheduleMetrics:
    """Who leads, and what became of scheduled tasks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._leader = Gauge("songs_ai_leader", "Whether this worker starts the scheduled tasks.", registry=registry)
        self._task_runs = _labelled(
            Counter(
                "songs_ai_task_runs_total",
                "Runs of scheduled tasks that this worker started and that ended, by outcome.",
                ["task", "outcome"],
                registry=registry,
            ),
            TASK_NAMES,
            TASK_OUTCOMES,
        )
        self._task_duration = _labelled(
            Gauge(
                "songs_ai_task_duration_seconds",
                "Time the last run of a task took, of those that this worker started.",
                ["task"],
                registry=registry,
            ),
            TASK_NAMES,
        )
        self._task_success = Gauge(
            "songs_ai_task_last_success_timestamp_seconds",
            "When the newest run that succeeded ended, seconds since the epoch; the leader alone says it.",
            ["task"],
            registry=registry,
        )

    def leading(self, *, leads: bool) -> None:
        """Whether this worker starts the tasks from now on."""
        self._leader.set(leads)
        if not leads:
            # What it knew of them grows old from now on.
            self._task_success.clear()

    def task_ended(self, task: str, *, outcome: str, seconds: float) -> None:
        """A run ended after so many seconds."""
        self._task_runs.labels(task, outcome).inc()
        self._task_duration.labels(task).set(seconds)

    def task_succeeded(self, task: str, at: datetime) -> None:
        """When the newest run that succeeded ended."""
        self._task_success.labels(task).set(at.timestamp())


class _EventMetrics:
    """What members do, and what it leads to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = _labelled(
            Counter("songs_ai_events_total", "Events by type and outcome.", ["kind", "outcome"], registry=registry),
            EVENT_KINDS,
            EVENT_OUTCOMES[:-1],
        )
        self._event_batch = Histogram(
            "songs_ai_event_batch_items",
            "Events that were taken in together.",
            buckets=_BATCH_BUCKETS,
            registry=registry,
        )
        self._event_batch_duration = Histogram(
            "songs_ai_event_batch_duration_seconds",
            "Time until a batch of events was kept and acted on.",
            buckets=_STAGE_BUCKETS_S,
            registry=registry,
        )
        self._refresh_requests = _labelled(
            Counter(
                "songs_ai_refresh_requests_total",
                "What asked for refreshes, by whether it was the first to.",
                ["outcome"],
                registry=registry,
            ),
            ("begun", "debounced"),
        )
        self._requested_refreshes = _labelled(
            Counter(
                "songs_ai_requested_refreshes_total",
                "Refreshes that fell due, by what became of them.",
                ["outcome"],
                registry=registry,
            ),
            REQUESTED_REFRESHES[:-1],
        )
        self._reactions = _labelled(
            Counter(
                "songs_ai_reactions_total",
                "Events about items that had been shown before.",
                ["arm", "kind"],
                registry=registry,
            ),
            ARMS[:-1],
            EVENT_KINDS[:-1],
        )
        self._impressions = _labelled(
            Counter(
                "songs_ai_impressions_total",
                "Items of results that were shown, once a day each.",
                ["arm"],
                registry=registry,
            ),
            ARMS[:-1],
        )

    def event(self, *, kind: str, outcome: str) -> None:
        """An event was ``kept``, ``late`` (its member was forgotten since), ``invalid`` or ``failed``."""
        self._events.labels(_bounded(kind, EVENT_KINDS), _bounded(outcome, EVENT_OUTCOMES)).inc()

    def event_batch(self, *, n: int, seconds: float) -> None:
        """So many events were taken in together, in so long."""
        self._event_batch.observe(n)
        self._event_batch_duration.observe(seconds)

    def refreshes_asked(self, *, n_begun: int, n_debounced: int) -> None:
        """Events, or a client, asked for refreshes: some were the first to, the others joined them."""
        self._refresh_requests.labels("begun").inc(n_begun)
        self._refresh_requests.labels("debounced").inc(n_debounced)

    def requested_refresh(self, *, outcome: str) -> None:
        """A refresh that fell due was ``published``, ``not_needed`` (the taste has not moved) or ``failed``."""
        self._requested_refreshes.labels(_bounded(outcome, REQUESTED_REFRESHES)).inc()

    def reaction(self, *, arm: str, kind: str) -> None:
        """A member of ``arm`` did something about what they had been shown."""
        self._reactions.labels(_bounded(arm, ARMS), _bounded(kind, EVENT_KINDS)).inc()

    def impressions(self, *, arm: str, n: int) -> None:
        """A member of ``arm`` was shown so many items that they had not been shown that day."""
        self._impressions.labels(_bounded(arm, ARMS)).inc(n)


class PrometheusMetrics(
    _PipelineMetrics,
    _LanguageModelMetrics,
    _GuardMetrics,
    _BatchMetrics,
    _WorkerMetrics,
    _ProcessMetrics,
    _EventMetrics,
    _ScheduleMetrics,
    _HttpMetrics,
):
    """Every metric of the worker in one registry; each part of the program sees it through its own Protocol."""

    def __init__(self, registry: CollectorRegistry, *, clock: Clock, version: str = "unknown") -> None:
        # They would double the number of series, and Prometheus 3 does not read them from the text format.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry
        _PipelineMetrics.__init__(self, registry, clock)
        _LanguageModelMetrics.__init__(self, registry)
        _GuardMetrics.__init__(self, registry)
        _BatchMetrics.__init__(self, registry)
        _WorkerMetrics.__init__(self, registry)
        _ProcessMetrics.__init__(self, registry, clock, version)
        _EventMetrics.__init__(self, registry)
        _ScheduleMetrics.__init__(self, registry)
        _HttpMetrics.__init__(self, registry)

    def expose(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics where the ``Accept`` header asks for it, else plain text."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type


def _bounded(value: str | None, allowed: tuple[str, ...]) -> str:
    return value if value is not None and value in allowed else OTHER


def _labelled(metric: M, *values: tuple[str, ...]) -> M:
    for combination in product(*values):
        metric.labels(*combination)
    return metric


def _total(counter: Counter, **labels: str) -> float:
    """The sum of all children of a counter that have these ``labels``."""
    samples = (sample for family in counter.collect() for sample in family.samples)
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())
