"""What a soak measures, and what is concluded from it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median

import numpy as np

from tests.chaos.vitals import Vitals
from tests.soak.load import Ended

MAX_GROWTH_MB = 12.0
MAX_MORE = 4
MAX_SLOWER = 1.5
MAX_DEARER = 1.2
_A_HANDFUL = 10


@dataclass(frozen=True, slots=True)
class Sample:
    """All workers, and the servers' connections, ``at_s`` seconds after the begin of the measured part.

    ``cpu_s`` is what all workers have used so far, ``load`` that of the machine.
    """

    at_s: float
    workers: Sequence[Vitals]
    n_tasks: Sequence[int]
    cpu_s: float
    load: float
    n_redis_connections: int
    n_mysql_connections: int


@dataclass(frozen=True, slots=True)
class AtRest:
    """The least that was held while nothing was to be done, all workers together."""

    n_tasks: int
    n_sockets: int
    n_open: int
    n_redis_connections: int
    n_mysql_connections: int
    n_broker_channels: int

    @classmethod
    def least(cls, samples: Sequence[Sample], *, n_broker_channels: int) -> "AtRest":
        """Of several samples: a request that is under way counts for nothing."""
        return cls(
            n_tasks=min(sum(each.n_tasks) for each in samples),
            n_sockets=min(sum(worker.n_sockets for worker in each.workers) for each in samples),
            n_open=min(sum(worker.n_open for worker in each.workers) for each in samples),
            n_redis_connections=min(each.n_redis_connections for each in samples),
            n_mysql_connections=min(each.n_mysql_connections for each in samples),
            n_broker_channels=n_broker_channels,
        )

    def leaked_since(self, before: "AtRest") -> list[str]:
        """What is more by more than a handful than it was; pools that have come to be full hold a few more."""
        held = {
            "tasks": (before.n_tasks, self.n_tasks),
            "sockets": (before.n_sockets, self.n_sockets),
            "open files and sockets": (before.n_open, self.n_open),
            "connections at Redis": (before.n_redis_connections, self.n_redis_connections),
            "connections at MySQL": (before.n_mysql_connections, self.n_mysql_connections),
            "channels at RabbitMQ": (before.n_broker_channels, self.n_broker_channels),
        }
        return [f"{what}: {was} before, {now} after" for what, (was, now) in held.items() if now > was + MAX_MORE]


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of one worker: means of the first and the last tenth, and the slope of all."""

    start_mb: float
    end_mb: float
    slope_mb_h: float
    hours: float

    @classmethod
    def of(cls, at_s: Sequence[float], rss_mb: Sequence[float]) -> "Memory":
        """Of samples at ``at_s`` seconds."""
        tenth = max(1, len(rss_mb) // 10)
        slope = slope_of([each / 3600 for each in at_s], rss_mb)
        return cls(mean(rss_mb[:tenth]), mean(rss_mb[-tenth:]), slope, (at_s[-1] - at_s[0]) / 3600)

    def faults(self, name: str) -> list[str]:
        """Whether it grew, by either measure."""
        faults = []
        if self.slope_mb_h * self.hours > MAX_GROWTH_MB:
            faults.append(f"{name} grows by {self.slope_mb_h:.0f} MB an hour")
        if self.end_mb - self.start_mb > MAX_GROWTH_MB:
            faults.append(f"{name} grew from {self.start_mb:.0f} to {self.end_mb:.0f} MB")
        return faults


@dataclass(frozen=True, slots=True)
class Window:
    """Latencies of the interactive jobs published within a minute."""

    minute: int
    n_jobs: int
    p50_ms: float
    p99_ms: float


def slope_of(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The median of the slopes between all pairs of points (Theil, 1950; Sen, 1968): outliers do not tilt it."""
    x, y = np.asarray(xs, dtype=np.float64), np.asarray(ys, dtype=np.float64)
    first, second = np.triu_indices(len(x), k=1)
    runs = x[second] - x[first]
    rises = y[second] - y[first]
    return float(np.median(rises[runs > 0] / runs[runs > 0])) if (runs > 0).any() else 0.0


def memory_of(samples: Sequence[Sample]) -> list[Memory]:
    """That of each worker."""
    at_s = [each.at_s for each in samples]
    n_workers = len(samples[0].workers)
    return [Memory.of(at_s, [each.workers[n].rss_mb for each in samples]) for n in range(n_workers)]


def windows_of(ended: Iterable[Ended], began_at_s: float) -> list[Window]:
    """Minute by minute from ``began_at_s`` on; minutes of hardly any job are left out."""
    by_minute: dict[int, list[float]] = {}
    for job in ended:
        if not job.is_batch and job.at_s >= began_at_s:
            by_minute.setdefault(int((job.at_s - began_at_s) // 60), []).append(1000 * job.latency_s)
    return [
        Window(minute, len(latencies), *(float(np.percentile(latencies, q)) for q in (50, 99)))
        for minute, latencies in sorted(by_minute.items())
        if len(latencies) >= _A_HANDFUL
    ]


def thirds(windows: Sequence[Window]) -> tuple[float, float]:
    """The median of the minutes' p50 in the first third and in the last, in ms."""
    third = max(1, len(windows) // 3)
    return median(each.p50_ms for each in windows[:third]), median(each.p50_ms for each in windows[-third:])


def cpu_ms_a_job(samples: Sequence[Sample], ended: Iterable[Ended], began_at_s: float) -> tuple[float, float]:
    """CPU time of the workers for each job, interactive or not, published in the first third, and in the last."""
    published_s = sorted(job.at_s - began_at_s for job in ended if job.at_s >= began_at_s)
    third = max(1, len(samples) // 3)

    def between(first: Sample, last: Sample) -> float:
        n_jobs = sum(first.at_s <= at_s < last.at_s for at_s in published_s)
        return 1000 * (last.cpu_s - first.cpu_s) / max(n_jobs, 1)

    return between(samples[0], samples[third]), between(samples[-1 - third], samples[-1])


def verdict(
    samples: Sequence[Sample], windows: Sequence[Window], cpu_ms: tuple[float, float], rest: tuple[AtRest, AtRest]
) -> list[str]:
    """What is against a worker that runs for ever; empty: nothing.

    Latency also grows with what else the machine has to do; where a job does not cost more CPU time, it is that.
    """
    faults = [fault for n, memory in enumerate(memory_of(samples), start=1) for fault in memory.faults(f"worker {n}")]
    faults += rest[1].leaked_since(rest[0])
    first_ms, last_ms = thirds(windows)
    if last_ms > MAX_SLOWER * first_ms and cpu_ms[1] > MAX_DEARER * cpu_ms[0]:
        faults.append(f"latency grew from {first_ms:.0f} to {last_ms:.0f} ms")
    return faults


def by_minute(samples: Sequence[Sample]) -> Mapping[int, Sequence[Sample]]:
    """Those of each minute."""
    found: dict[int, list[Sample]] = {}
    for each in samples:
        found.setdefault(int(each.at_s // 60), []).append(each)
    return found
