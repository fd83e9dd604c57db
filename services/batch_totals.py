"""What all batches of a site came to, from the books to the metrics.

The process that runs a refresh ends with it, and nobody scrapes it. So every worker reads the sums of all that was ever
closed: they are the same wherever and whenever they are read, and nothing is counted twice or lost with a process.
"""

import asyncio
from typing import Protocol

import structlog

from core.errors import ConfigurationError, DependencyUnavailable
from core.ports.batches import BatchLedger, BatchTotals
from models.log_event import LogEvent

log = structlog.get_logger()

INTERVAL_S = 60.0


class BatchTotalsObserver(Protocol):
    """Is told what batches came to."""

    def batches_totalled(self, totals: BatchTotals) -> None:
        """All batches since the beginning of the books."""


async def watch_batch_totals(
    ledger: BatchLedger, observer: BatchTotalsObserver, *, interval_s: float = INTERVAL_S
) -> None:
    """Look until cancelled; while the books are not to be had, what was read last stands."""
    while True:
        try:
            observer.batches_totalled(await ledger.totals())
        except (ConfigurationError, DependencyUnavailable) as error:
            log.warning(LogEvent.DEPENDENCY_CHECK_FAILED, error=str(error))
        await asyncio.sleep(interval_s)
