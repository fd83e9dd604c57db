"""The commands that serve. What only they need, FastAPI above all, is slow to import, so it waits until they run."""

from commands.running import run


def worker() -> None:
    """Consume jobs, and serve /health and /metrics, until SIGTERM."""
    from workers.runtime.process import run_worker  # noqa: PLC0415 - see above

    run(run_worker)


def api() -> None:
    """Serve HTTP alone, without consuming jobs."""
    from workers.runtime.process import run_api  # noqa: PLC0415 - see above

    run(run_api)
