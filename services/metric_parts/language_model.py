"""What the LLM is asked and answers."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from core.wish_stage import NOT_EMBEDDED
from services.metric_parts.buckets import LLM_BUCKETS_S
from services.metric_parts.labels import DROP_CAUSES, FLAWS, LLM_OUTCOMES, LLM_RETRY_CAUSES, OTHER
from services.metric_parts.series import bounded, labelled, total


class LanguageModelMetrics:
    """The part of the ``Observer`` that sees the LLM."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._llm_calls = Counter(
            "songs_ai_llm_calls_total", "LLM calls by model and outcome.", ["model", "outcome"], registry=registry
        )
        self._llm_duration = Histogram(
            "songs_ai_llm_call_duration_seconds",
            "Time one LLM call took, the client's retries included.",
            ["model"],
            buckets=LLM_BUCKETS_S,
            registry=registry,
        )
        self._llm_tokens = Counter(
            "songs_ai_llm_tokens_total", "Tokens that LLM calls used.", ["model", "kind"], registry=registry
        )
        self.llm_models(())
        self._llm_retries = labelled(
            Counter(
                "songs_ai_llm_retries_total", "Requests beyond the first of an LLM call.", ["cause"], registry=registry
            ),
            LLM_RETRY_CAUSES,
        )
        self._llm_dropped = labelled(
            Counter(
                "songs_ai_llm_dropped_total",
                "Parts of LLM answers that could not be used.",
                ["cause"],
                registry=registry,
            ),
            DROP_CAUSES,
        )
        self._degraded = labelled(
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
        labelled(self._llm_calls, each, LLM_OUTCOMES)
        labelled(self._llm_duration, each)
        labelled(self._llm_tokens, each, ("prompt", "completion", "cached"))

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
        model = bounded(model, self._models)
        self._llm_calls.labels(model, bounded(outcome, LLM_OUTCOMES)).inc()
        self._llm_duration.labels(model).observe(seconds)
        self._llm_tokens.labels(model, "prompt").inc(prompt_tokens)
        self._llm_tokens.labels(model, "completion").inc(completion_tokens)
        self._llm_tokens.labels(model, "cached").inc(cached_tokens)

    def llm_retried(self, cause: str) -> None:
        """A further request of the same call: after a failure, or without what the endpoint refused."""
        self._llm_retries.labels(bounded(cause, LLM_RETRY_CAUSES)).inc()

    def llm_dropped(self, cause: str, n: int) -> None:
        """Parts of an LLM answer that could not be used."""
        self._llm_dropped.labels(bounded(cause, DROP_CAUSES)).inc(n)

    def degraded(self, reason: str) -> None:
        """A result that lacks what was asked for: the LLM's judgement, or the search for a wish."""
        self._degraded.labels(bounded(reason, FLAWS)).inc()

    def _success_rate(self) -> float:
        # A call may end well and its answer be unusable all the same: what counts is the result, where there is one.
        n_degraded = total(self._degraded) - total(self._degraded.labels(NOT_EMBEDDED))
        n_ended = total(self._llm_calls) - total(self._llm_calls, outcome="cancelled")
        n_asked = max(n_ended, n_degraded)
        return 1.0 - n_degraded / n_asked if n_asked else 1.0
