"""What batches of LLM requests came to."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from core.ports.batches import BatchTotals


class BatchMetrics(Collector):
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
