"""Breaker, budgets and prices of the LLM."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.metric_parts.buckets import SHORT_BUCKETS_S
from services.metric_parts.labels import BREAKER_STATES, GUARD_PARTS, OTHER
from services.metric_parts.series import bounded, labelled


class GuardMetrics:
    """The ``GuardObserver``: what stands before the calls of the LLM."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._cost = Counter(
            "songs_ai_llm_cost_usd_total",
            "What LLM calls cost, by the prices in the settings.",
            ["model"],
            registry=registry,
        )
        self._spend = Gauge(
            "songs_ai_llm_spend_today_usd", "What all workers spent today, as last seen.", registry=registry
        )
        self._ceiling = Gauge(
            "songs_ai_llm_daily_ceiling_usd", "What may be spent a day; 0: no limit.", registry=registry
        )
        self._breaker_state = Gauge(
            "songs_ai_llm_breaker_state",
            "0: closed, 1: half open, 2: open; as last seen.",
            ["model"],
            registry=registry,
        )
        self._budget_wait = labelled(
            Histogram(
                "songs_ai_llm_budget_wait_seconds",
                "How long LLM calls waited for room in the budget.",
                ["outcome"],
                buckets=SHORT_BUCKETS_S,
                registry=registry,
            ),
            ("admitted", "refused"),
        )
        self._guard_unavailable = labelled(
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
        labelled(self._cost, (*self._guarded, OTHER))
        labelled(self._breaker_state, (*self._guarded, OTHER))

    def llm_cost(self, model: str, usd: float, *, spend_usd: float | None) -> None:
        """A call cost so much; ``spend_usd`` is what all workers spent today, None where that could not be asked."""
        self._cost.labels(bounded(model, self._guarded)).inc(usd)
        if spend_usd is not None:
            self.llm_spent_today(spend_usd)

    def llm_spent_today(self, usd: float) -> None:
        """All workers spent so much today."""
        self._spend.set(usd)

    def llm_breaker(self, model: str, state: str) -> None:
        """The breaker of a model is ``closed``, ``half_open`` or ``open``, as this worker last saw."""
        self._breaker_state.labels(bounded(model, self._guarded)).set(BREAKER_STATES.index(state))

    def llm_budget_wait(self, seconds: float, *, admitted: bool) -> None:
        """A call waited so long for room in the budget, and got it or not."""
        self._budget_wait.labels("admitted" if admitted else "refused").observe(seconds)

    def llm_guard_unavailable(self, part: str) -> None:
        """``breaker`` or ``budgets`` could not be asked, since Redis is away."""
        self._guard_unavailable.labels(bounded(part, GUARD_PARTS)).inc()
