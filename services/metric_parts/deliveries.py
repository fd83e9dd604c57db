"""Jobs, deliveries and the queues they come from."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.metric_parts.buckets import JOB_BUCKETS_S, PROVISIONAL_BUCKETS_S, WAIT_BUCKETS_S
from services.metric_parts.labels import (
    DEAD_LETTER_KINDS,
    JOB_OUTCOMES,
    JOB_ROUTES,
    OTHER,
    PROVISIONAL_OUTCOMES,
    REASONS,
    ROUTES,
    SETTLED_REASONS,
    SOURCES,
)
from services.metric_parts.series import bounded, labelled


class WorkerMetrics:
    """What becomes of jobs and of deliveries."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._recommendations = labelled(
            Counter(
                "songs_ai_recommendations_total",
                "Jobs that were handled, by what became of them.",
                ["outcome", "source"],
                registry=registry,
            ),
            JOB_OUTCOMES,
            SOURCES,
        )
        self._duration = labelled(
            Histogram(
                "songs_ai_recommendation_duration_seconds",
                "Time from a job's delivery to the end of its handling.",
                ["source"],
                buckets=JOB_BUCKETS_S,
                registry=registry,
            ),
            SOURCES,
        )
        self._wait = labelled(
            Histogram(
                "songs_ai_job_wait_seconds",
                "Time from a job's request to its first delivery.",
                ["route"],
                buckets=WAIT_BUCKETS_S,
                registry=registry,
            ),
            JOB_ROUTES,
        )
        # Not there while this process cannot tell: a zero, or what was true once, would be the least of all ages, and
        # a scaler that is told "not a number" reckons with it.
        self._messages = Gauge(
            "songs_ai_queue_messages", "Messages that wait to be taken, as last seen.", ["route"], registry=registry
        )
        self._oldest = Gauge(
            "songs_ai_queue_oldest_age_seconds",
            "No message that waits to be taken can be older, as far as this worker can tell.",
            ["route"],
            registry=registry,
        )
        self._in_flight = labelled(
            Gauge("songs_ai_jobs_in_flight", "Jobs under way in this worker.", ["source"], registry=registry), SOURCES
        )
        self._provisional = labelled(
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
            buckets=PROVISIONAL_BUCKETS_S,
            registry=registry,
        )
        self._settled = Counter(
            "songs_ai_deliveries_settled_total",
            "Deliveries by what the broker was told, and why.",
            ["route", "outcome", "reason"],
            registry=registry,
        )
        for outcome, reasons in SETTLED_REASONS.items():
            labelled(self._settled, ROUTES[:-1], (outcome,), reasons)
        self._retries = Counter(
            "songs_ai_retries_total", "Deliveries sent to a retry queue.", ["route", "delay"], registry=registry
        )
        self._waiting = Gauge(
            "songs_ai_jobs_waiting", "Jobs in a retry queue, as last seen.", ["route", "delay"], registry=registry
        )
        self._dead_letters = labelled(
            Gauge(
                "songs_ai_dead_letters", "Messages in a dead-letter queue, as last seen.", ["kind"], registry=registry
            ),
            DEAD_LETTER_KINDS,
        )
        self._delays: tuple[str, ...] = ()
        self.retries_watched(())
        self._not_settled = labelled(
            Counter(
                "songs_ai_deliveries_not_settled_total",
                "Deliveries that the broker could not be told about, and will deliver again.",
                ["route"],
                registry=registry,
            ),
            ROUTES[:-1],
        )

    def job_waited(self, *, route: str, seconds: float) -> None:
        """A job came for the first time, so long after it was asked for."""
        self._wait.labels(bounded(route, (*JOB_ROUTES, OTHER))).observe(seconds)

    def job_started(self, *, source: str) -> None:
        """A job was claimed and is being run."""
        self._in_flight.labels(bounded(source, SOURCES)).inc()

    def job_finished(self, *, outcome: str, source: str, seconds: float) -> None:
        """A started job ended, ``seconds`` after its delivery."""
        source = bounded(source, SOURCES)
        self._in_flight.labels(source).dec()
        self._recommendations.labels(bounded(outcome, JOB_OUTCOMES), source).inc()
        self._duration.labels(source).observe(seconds)

    def provisional_result(self, *, outcome: str, seconds: float) -> None:
        """Of a provisional result: ``written`` ``seconds`` after the delivery, ``skipped`` or ``failed``."""
        self._provisional.labels(bounded(outcome, PROVISIONAL_OUTCOMES)).inc()
        if outcome == "written":
            self._provisional_duration.observe(seconds)

    def delivery_settled(self, *, route: str, outcome: str, reason: str) -> None:
        """The broker was told what becomes of a delivery."""
        self._settled.labels(
            bounded(route, ROUTES), bounded(outcome, (*SETTLED_REASONS, OTHER)), bounded(reason, REASONS)
        ).inc()

    def retries_watched(self, delays: Sequence[str]) -> None:
        """There are retry queues of these delays, such as ``5s``."""
        self._delays = tuple(delays)
        labelled(self._retries, JOB_ROUTES, (*self._delays, OTHER))
        labelled(self._waiting, JOB_ROUTES, (*self._delays, OTHER))

    def delivery_retried(self, *, route: str, delay: str) -> None:
        """A delivery was sent to the retry queue of ``delay``."""
        self._retries.labels(bounded(route, ROUTES), bounded(delay, self._delays)).inc()

    def messages_waiting(self, *, route: str, n: int, oldest_s: float | None) -> None:
        """So many messages of ``route`` wait to be taken, and none for longer than ``oldest_s`` (None: not known)."""
        route = bounded(route, ROUTES)
        self._messages.labels(route).set(n)
        if oldest_s is None:
            self._oldest.remove(route)
        else:
            self._oldest.labels(route).set(oldest_s)

    def messages_unseen(self) -> None:
        """The queues could not be looked at: what was told of them is of the past, and is told no longer."""
        self._messages.clear()
        self._oldest.clear()

    def jobs_waiting(self, *, route: str, delay: str, n: int) -> None:
        """So many jobs wait in the retry queue of ``delay``."""
        self._waiting.labels(bounded(route, ROUTES), bounded(delay, self._delays)).set(n)

    def dead_letters(self, *, kind: str, n: int) -> None:
        """So many messages are in the dead-letter queue of ``kind``."""
        self._dead_letters.labels(bounded(kind, (*DEAD_LETTER_KINDS, OTHER))).set(n)

    def delivery_not_settled(self, *, route: str) -> None:
        """The broker could not be told; it will deliver again."""
        self._not_settled.labels(bounded(route, ROUTES)).inc()
