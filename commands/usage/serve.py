"""How ``commands.serve`` is called: what can be typed, and the help on it."""

from typing import TYPE_CHECKING

from commands.usage.later import later

if TYPE_CHECKING:
    from commands import serve as steps
else:
    steps = later("commands.serve")


def worker() -> None:
    """Consume jobs, and serve /health and /metrics, until SIGTERM."""
    steps.worker()


def api() -> None:
    """Serve HTTP alone, without consuming jobs."""
    steps.api()
