"""Events of members, and what follows from them."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from services.metric_parts.buckets import BATCH_BUCKETS, STAGE_BUCKETS_S
from services.metric_parts.labels import ARMS, EVENT_KINDS, EVENT_OUTCOMES, REQUESTED_REFRESHES
from services.metric_parts.series import bounded, labelled


class EventMetrics:
    """What members do, and what it leads to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = labelled(
            Counter("songs_ai_events_total", "Events by type and outcome.", ["kind", "outcome"], registry=registry),
            EVENT_KINDS,
            EVENT_OUTCOMES[:-1],
        )
        self._event_batch = Histogram(
            "songs_ai_event_batch_items",
            "Events that were taken in together.",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._event_batch_duration = Histogram(
            "songs_ai_event_batch_duration_seconds",
            "Time until a batch of events was kept and acted on.",
            buckets=STAGE_BUCKETS_S,
            registry=registry,
        )
        self._refresh_requests = labelled(
            Counter(
                "songs_ai_refresh_requests_total",
                "What asked for refreshes, by whether it was the first to.",
                ["outcome"],
                registry=registry,
            ),
            ("begun", "debounced"),
        )
        self._requested_refreshes = labelled(
            Counter(
                "songs_ai_requested_refreshes_total",
                "Refreshes that fell due, by what became of them.",
                ["outcome"],
                registry=registry,
            ),
            REQUESTED_REFRESHES[:-1],
        )
        self._reactions = labelled(
            Counter(
                "songs_ai_reactions_total",
                "Events about items that had been shown before.",
                ["arm", "kind"],
                registry=registry,
            ),
            ARMS[:-1],
            EVENT_KINDS[:-1],
        )
        self._impressions = labelled(
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
        self._events.labels(bounded(kind, EVENT_KINDS), bounded(outcome, EVENT_OUTCOMES)).inc()

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
        self._requested_refreshes.labels(bounded(outcome, REQUESTED_REFRESHES)).inc()

    def reaction(self, *, arm: str, kind: str) -> None:
        """A member of ``arm`` did something about what they had been shown."""
        self._reactions.labels(bounded(arm, ARMS), bounded(kind, EVENT_KINDS)).inc()

    def impressions(self, *, arm: str, n: int) -> None:
        """A member of ``arm`` was shown so many items that they had not been shown that day."""
        self._impressions.labels(bounded(arm, ARMS)).inc(n)
