"""Requests of the HTTP server."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from services.metric_parts.buckets import SHORT_BUCKETS_S
from services.metric_parts.labels import HTTP_CODES, HTTP_ROUTES
from services.metric_parts.series import bounded, labelled


class HttpMetrics:
    """The HTTP server's requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = labelled(
            Counter(
                "songs_ai_http_requests_total",
                "HTTP requests by route and class of status code.",
                ["route", "code"],
                registry=registry,
            ),
            HTTP_ROUTES,
            HTTP_CODES,
        )
        self._request_duration = labelled(
            Histogram(
                "songs_ai_http_request_duration_seconds",
                "Time one HTTP request took.",
                ["route"],
                buckets=SHORT_BUCKETS_S,
                registry=registry,
            ),
            HTTP_ROUTES,
        )

    def http_request(self, *, route: str, status: int, seconds: float) -> None:
        """A request was answered; ``route`` is the template of its path."""
        route = bounded(route, HTTP_ROUTES)
        self._requests.labels(route, f"{status // 100}xx").inc()
        self._request_duration.labels(route).observe(seconds)
