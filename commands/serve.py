"""The commands that serve."""

from commands.running import run
from workers.runtime.process import run_api, run_worker


def worker() -> None:
    """Consume jobs, and serve /health and /metrics, until SIGTERM."""
    run(run_worker)


def api() -> None:
    """Serve HTTP alone, without consuming jobs."""
    run(run_api)
