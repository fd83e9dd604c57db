"""The stand-ins of the benchmark of what counting costs."""

import pytest
from prometheus_client import CollectorRegistry

from benchmarks.metered_worker import N_CALLS, SPENT, SilentMetrics, TimedMetrics
from benchmarks.metrics_cost import Contestant, shares
from services.clock import SystemClock
from services.metrics import PrometheusMetrics


def values(registry: CollectorRegistry) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name.startswith("songs_ai") and "build" not in sample.name and "memory" not in sample.name
    }


def use(metrics: PrometheusMetrics) -> None:
    with metrics.stage("rank"):
        metrics.job_started(source="login")
        metrics.job_finished(outcome="succeeded", source="login", seconds=1)


def test_the_silent_one_exposes_everything_and_counts_nothing() -> None:
    registry = CollectorRegistry()
    metrics = SilentMetrics(registry, clock=SystemClock())
    before = values(registry)
    use(metrics)
    assert values(registry) == before
    assert b"songs_ai_recommendations_total" in metrics.expose("")[0]


def test_the_timed_one_counts_as_shipped_and_tells_its_calls_and_their_time() -> None:
    registry = CollectorRegistry()
    metrics = TimedMetrics(registry, clock=SystemClock())
    use(metrics)
    labels = {"outcome": "succeeded", "source": "login"}
    assert registry.get_sample_value("songs_ai_recommendations_total", labels) == 1
    assert registry.get_sample_value("songs_ai_stage_duration_seconds_count", {"stage": "rank"}) == 1
    assert registry.get_sample_value(N_CALLS) == 4  # a stage is begun and ended
    assert 0 < (registry.get_sample_value(SPENT) or 0) < 1


def test_an_error_inside_a_timed_stage_goes_on() -> None:
    metrics = TimedMetrics(CollectorRegistry(), clock=SystemClock())
    with pytest.raises(LookupError), metrics.stage("rank"):
        raise LookupError


def test_the_share_is_that_of_the_median_round_of_each_kind() -> None:
    rounds = [(0.0002, 40.0), (0.00005, 15.0)] * 3
    timed = Contestant("timed", None, None, [20.0, 21.0, 19.0], [2.5, 2.0, 3.0], rounds)  # type: ignore[arg-type]
    new, again = shares(timed)
    assert new == pytest.approx(0.2 / 20)
    assert again == pytest.approx(0.05 / 2.5)
