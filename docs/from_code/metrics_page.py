"""The page of all series, of the registry of a process that has just begun: all labels exist from the start."""

from collections.abc import Iterable
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from docs.from_code.tables import code, codes, plain, table
from services.metrics import PrometheusMetrics

_INTRODUCTION = """\
# Series

What `GET /metrics` answers, with every value that a label can have; read off the registry. What each metric means, and
what to look at first: [Metrics](../metrics.md). Series of a histogram end in `_bucket`, `_sum` and `_count`. Where a
label has no values here, its series come with what they tell of: models, batches. Beside these there are those
of the process and of Python.
"""

_SUFFIXES = {"counter": "_total", "info": "_info"}


class _Now:
    """The clock that metrics are begun with; nothing of it is shown."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        return 0.0


def page() -> str:
    """The page."""
    registry = CollectorRegistry()
    PrometheusMetrics(registry, clock=_Now())
    families = sorted(
        (family for family in registry.collect() if family.name.startswith("songs_ai_")),
        key=lambda family: family.name,
    )
    rows = [
        [code(family.name + _SUFFIXES.get(family.type, "")), family.type, _labels(family), plain(family.documentation)]
        for family in families
    ]
    buckets = [[code(family.name), _buckets(family)] for family in families if family.type == "histogram"]
    return "\n".join(
        [
            _INTRODUCTION,
            table(["metric", "type", "labels", "in a word"], rows),
            "\n## Buckets\n\nUpper bounds of the histograms, in seconds unless the name says otherwise.\n",
            table(["histogram", "upper bounds"], buckets),
        ]
    )


def _labels(family: Metric) -> str:
    values = dict[str, dict[str, None]]()
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label != "le":
                values.setdefault(label, {})[value] = None
    return "; ".join(f"{code(label)}: {codes(filter(None, found))}" for label, found in values.items())


def _buckets(family: Metric) -> str:
    bounds: Iterable[str] = dict.fromkeys(sample.labels["le"] for sample in family.samples if "le" in sample.labels)
    return " ".join(f"{float(bound):g}" for bound in bounds if bound != "+Inf")
