"""What Prometheus sees. ``docs/metrics.md`` describes every metric; a test holds the two together.

Labels are bounded: a value that is not in the lists of ``metric_parts.labels`` is counted as ``other``, and no label
ever holds a member's, an item's or a job's id. All children exist from the start, so that a rate or a panel is zero
rather than absent.
"""

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from core.ports.clock import Clock
from services.metric_parts.batches import BatchMetrics
from services.metric_parts.deliveries import WorkerMetrics
from services.metric_parts.events import EventMetrics
from services.metric_parts.guard import GuardMetrics
from services.metric_parts.http import HttpMetrics
from services.metric_parts.language_model import LanguageModelMetrics
from services.metric_parts.pipeline import PipelineMetrics
from services.metric_parts.process import ProcessMetrics
from services.metric_parts.schedule import ScheduleMetrics


class PrometheusMetrics(
    PipelineMetrics,
    LanguageModelMetrics,
    GuardMetrics,
    BatchMetrics,
    WorkerMetrics,
    ProcessMetrics,
    EventMetrics,
    ScheduleMetrics,
    HttpMetrics,
):
    """Every metric of the worker in one registry; each part of the program sees it through its own Protocol."""

    def __init__(self, registry: CollectorRegistry, *, clock: Clock, version: str = "unknown") -> None:
        # They would double the number of series, and Prometheus 3 does not read them from the text format.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry
        PipelineMetrics.__init__(self, registry, clock)
        LanguageModelMetrics.__init__(self, registry)
        GuardMetrics.__init__(self, registry)
        BatchMetrics.__init__(self, registry)
        WorkerMetrics.__init__(self, registry)
        ProcessMetrics.__init__(self, registry, clock, version)
        EventMetrics.__init__(self, registry)
        ScheduleMetrics.__init__(self, registry)
        HttpMetrics.__init__(self, registry)

    def expose(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics where the ``Accept`` header asks for it, else plain text."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type
