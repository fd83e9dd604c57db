"""Labelled series: bounded values, children from the start, sums."""

from functools import cache
from itertools import product
from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram

from services.metric_parts.labels import OTHER

M = TypeVar("M", Counter, Gauge, Histogram)


def bounded(value: str | None, allowed: tuple[str, ...]) -> str:
    """The value where it is on the list, else ``other``."""
    return value if value is not None and value in allowed else OTHER


def labelled(metric: M, *values: tuple[str, ...]) -> M:
    """``metric`` with a child for each combination of ``values``, so that all of them begin at zero.

    Children are never removed, so they are looked up in a cache: the library takes a lock, and makes a string of each
    value once more, which is a third of what counting costs.
    """
    if not hasattr(metric.labels, "cache_info"):
        vars(metric)["labels"] = cache(metric.labels)
    for combination in product(*values):
        metric.labels(*combination)
    return metric


def total(counter: Counter, **labels: str) -> float:
    """The sum of all children of a counter that have these ``labels``."""
    samples = (sample for family in counter.collect() for sample in family.samples)
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())
