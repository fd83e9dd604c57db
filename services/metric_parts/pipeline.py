"""What a job's pipeline does."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from core.ports.clock import Clock
from services.metric_parts.buckets import STAGE_BUCKETS_S
from services.metric_parts.labels import ANSWER_KINDS, ARMS, STAGES
from services.metric_parts.series import bounded, labelled, total


class PipelineMetrics:
    """The ``Observer`` of the core."""

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self._pipeline_clock = clock
        self._stages = labelled(
            Histogram(
                "songs_ai_stage_duration_seconds",
                "Time one stage of the pipeline took.",
                ["stage"],
                buckets=STAGE_BUCKETS_S,
                registry=registry,
            ),
            STAGES,
        )
        self._unknown_items = Counter(
            "songs_ai_unknown_items_total", "Liked ids that the index does not hold.", registry=registry
        )
        self._answer_cache = labelled(
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

        self._arm_answers = labelled(
            Counter(
                "songs_ai_arm_answers_total",
                "Answers by arm of LLM_SHARE.",
                ["arm", "kind"],
                registry=registry,
            ),
            ARMS[:-1],
            ANSWER_KINDS[:-1],
        )
        self._arm_duration = labelled(
            Histogram(
                "songs_ai_arm_answer_duration_seconds",
                "Time that answers took, by arm.",
                ["arm"],
                buckets=STAGE_BUCKETS_S,
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
            self._stages.labels(bounded(name, STAGES)).observe(self._pipeline_clock.monotonic_s() - started_s)

    def unknown_items(self, n: int) -> None:
        """Liked ids that the index does not hold."""
        self._unknown_items.inc(n)

    def answer_cache(self, *, hit: bool) -> None:
        """A look-up by fingerprint."""
        self._answer_cache.labels("hit" if hit else "miss").inc()

    def answered(self, *, arm: str, kind: str, seconds: float) -> None:
        """A job of ``arm`` was answered."""
        arm = bounded(arm, ARMS)
        self._arm_answers.labels(arm, bounded(kind, ANSWER_KINDS)).inc()
        self._arm_duration.labels(arm).observe(seconds)

    def _hit_rate(self) -> float:
        n_lookups = total(self._answer_cache)
        return total(self._answer_cache.labels("hit")) / n_lookups if n_lookups else 0.0
