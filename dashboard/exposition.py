"""Figures of operations, read from what workers expose to Prometheus."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """``outcomes``: jobs that ended, by outcome; ``waiting``: messages by route of the queues that they wait in.

    Counts are sums over all processes that were asked, since each began; of what all of them see alike, such as a
    queue, the greatest is taken. ``cost_usd`` by model; ``mean_s`` is None where no job ended yet.
    """

    n_processes: int
    outcomes: dict[str, float]
    degraded: dict[str, float]
    waiting: dict[str, float]
    retrying: float
    dead: dict[str, float]
    in_flight: float
    mean_s: float | None
    cost_usd: dict[str, float]
    spend_today_usd: float
    daily_ceiling_usd: float
    llm_calls: dict[str, float]


def read_figures(expositions: Sequence[str]) -> Figures:
    """The figures of all processes together."""
    samples = [
        sample for text in expositions for family in text_string_to_metric_families(text) for sample in family.samples
    ]
    n_ended = _sum(samples, "songs_ai_recommendation_duration_seconds_count")
    seconds = _sum(samples, "songs_ai_recommendation_duration_seconds_sum")
    return Figures(
        n_processes=len(expositions),
        outcomes=_by(samples, "songs_ai_recommendations_total", "outcome"),
        degraded=_by(samples, "songs_ai_degraded_results_total", "reason"),
        waiting=_greatest_by(samples, "songs_ai_queue_messages", "route"),
        retrying=sum(_greatest_by(samples, "songs_ai_jobs_waiting", "route", "delay").values()),
        dead=_greatest_by(samples, "songs_ai_dead_letters", "kind"),
        in_flight=_sum(samples, "songs_ai_jobs_in_flight"),
        mean_s=seconds / n_ended if n_ended else None,
        cost_usd=_by(samples, "songs_ai_llm_cost_usd_total", "model"),
        spend_today_usd=_greatest(samples, "songs_ai_llm_spend_today_usd"),
        daily_ceiling_usd=_greatest(samples, "songs_ai_llm_daily_ceiling_usd"),
        llm_calls=_by(samples, "songs_ai_llm_calls_total", "outcome"),
    )


def _named(samples: Iterable[Sample], name: str) -> list[Sample]:
    return [sample for sample in samples if sample.name == name]


def _sum(samples: Iterable[Sample], name: str) -> float:
    return sum(sample.value for sample in _named(samples, name))


def _greatest(samples: Iterable[Sample], name: str) -> float:
    return max((sample.value for sample in _named(samples, name)), default=0.0)


def _by(samples: Iterable[Sample], name: str, label: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for sample in _named(samples, name):
        found[sample.labels[label]] = found.get(sample.labels[label], 0.0) + sample.value
    return found


def _greatest_by(samples: Iterable[Sample], name: str, *labels: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for sample in _named(samples, name):
        key = " ".join(sample.labels[label] for label in labels)
        found[key] = max(found.get(key, 0.0), sample.value)
    return found
