"""Scheduled tasks and who leads."""

from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge

from config.schedule import TASK_NAMES
from services.metric_parts.labels import TASK_OUTCOMES
from services.metric_parts.series import labelled


class ScheduleMetrics:
    """Who leads, and what became of scheduled tasks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._leader = Gauge("songs_ai_leader", "Whether this worker starts the scheduled tasks.", registry=registry)
        self._task_runs = labelled(
            Counter(
                "songs_ai_task_runs_total",
                "Runs of scheduled tasks that this worker started and that ended, by outcome.",
                ["task", "outcome"],
                registry=registry,
            ),
            TASK_NAMES,
            TASK_OUTCOMES,
        )
        self._task_duration = labelled(
            Gauge(
                "songs_ai_task_duration_seconds",
                "Time the last run of a task took, of those that this worker started.",
                ["task"],
                registry=registry,
            ),
            TASK_NAMES,
        )
        self._task_success = Gauge(
            "songs_ai_task_last_success_timestamp_seconds",
            "When the newest run that succeeded ended, seconds since the epoch; the leader alone says it.",
            ["task"],
            registry=registry,
        )

    def leading(self, *, leads: bool) -> None:
        """Whether this worker starts the tasks from now on."""
        self._leader.set(leads)
        if not leads:
            # What it knew of them grows old from now on.
            self._task_success.clear()

    def task_ended(self, task: str, *, outcome: str, seconds: float) -> None:
        """A run ended after so many seconds."""
        self._task_runs.labels(task, outcome).inc()
        self._task_duration.labels(task).set(seconds)

    def task_succeeded(self, task: str, at: datetime) -> None:
        """When the newest run that succeeded ended."""
        self._task_success.labels(task).set(at.timestamp())
