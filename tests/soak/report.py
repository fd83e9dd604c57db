"""The row and the pictures that a soak leaves in the documents."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean

import numpy as np

from benchmarks.plot import Points, line_chart, write_chart
from tests.soak.figures import AtRest, Sample, by_minute, memory_of, thirds
from tests.soak.soak import Report

ROWS_END = "<!-- soak runs -->"


def row(report: Report, *, seed: int) -> str:
    """A run's figures, and what is against it."""
    tally = report.tally
    memories = memory_of(report.samples)
    first_ms, last_ms = thirds(report.windows)
    p99_ms = float(np.median([each.p99_ms for each in report.windows]))
    before, after = report.rest
    third = max(1, len(report.samples) // 3)
    cells = (
        f"{datetime.now(UTC):%Y-%m-%d}",
        f"{report.measured_s / 60:.0f}",
        seed,
        f"{len(tally.ended):,}",
        f"{sum(job.is_batch for job in tally.ended):,}",
        f"{tally.n_degraded:,}",
        tally.n_poison,
        f"{tally.n_requests:,}",
        tally.n_changes,
        "; ".join(f"{each.start_mb:.0f} to {each.end_mb:.0f} ({each.slope_mb_h:+.0f} an hour)" for each in memories),
        _pair(before.n_sockets, after.n_sockets),
        _pair(before.n_tasks, after.n_tasks),
        _held(before, after),
        f"{_pair(round(first_ms), round(last_ms))}; {p99_ms:,.0f}",
        _pair(*map(round, report.cpu_ms)),
        _pair(*(round(mean(each.load for each in part)) for part in (report.samples[:third], report.samples[-third:]))),
        "; ".join(each.splitlines()[0] for each in report.faults[:5]) or "nothing",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _pair(before: int, after: int) -> str:
    return f"{before:,} to {after:,}"


def _held(before: AtRest, after: AtRest) -> str:
    return "; ".join(
        _pair(*each)
        for each in (
            (before.n_redis_connections, after.n_redis_connections),
            (before.n_mysql_connections, after.n_mysql_connections),
            (before.n_broker_channels, after.n_broker_channels),
        )
    )


def write_pictures(report: Report, directory: Path) -> list[Path]:
    """Memory, what is held, and latency, each by minute and from zero; where they were written."""
    minutes = by_minute(report.samples)
    charts = {
        "soak-memory": line_chart(
            "Memory of each worker",
            "minute",
            "MB",
            _memory_lines(minutes, len(report.samples[0].workers)),
            from_zero=True,
        ),
        "soak-held": line_chart(
            "What all workers hold, means of a minute", "minute", "", _held_lines(minutes), from_zero=True
        ),
        "soak-latency": line_chart(
            "Published to succeeded, interactive jobs",
            "minute",
            "ms",
            {
                "p50": [(each.minute, each.p50_ms) for each in report.windows],
                "p99": [(each.minute, each.p99_ms) for each in report.windows],
            },
            from_zero=True,
        ),
    }
    for name, chart in charts.items():
        write_chart(directory / f"{name}.svg", chart)
    return [directory / f"{name}.svg" for name in charts]


def _memory_lines(minutes: Mapping[int, Sequence[Sample]], n_workers: int) -> Mapping[str, Points]:
    return {
        f"worker {n + 1}": [(m, mean(each.workers[n].rss_mb for each in samples)) for m, samples in minutes.items()]
        for n in range(n_workers)
    }


def _held_lines(minutes: Mapping[int, Sequence[Sample]]) -> Mapping[str, Points]:
    measures = {
        "sockets": lambda each: sum(worker.n_sockets for worker in each.workers),
        "tasks": lambda each: sum(each.n_tasks),
        "at Redis": lambda each: each.n_redis_connections,
        "at MySQL": lambda each: each.n_mysql_connections,
    }
    return {
        name: [(minute, mean(map(measure, samples))) for minute, samples in minutes.items()]
        for name, measure in measures.items()
    }
