"""Refreshes as jobs of their own on the batch queue, which a worker answers one by one."""

import asyncio
from collections.abc import Sequence
from datetime import date

from core.ports.batches import BatchQuestion
from core.ports.messages import JobPublisher
from core.ports.results import ResultCache
from core.refresh_job import refresh_job
from core.submission import submit

# Confirms are awaited together: one at a time would run at a tenth of the rate.
WINDOW = 64


async def submit_refreshes(
    questions: Sequence[BatchQuestion],
    run_on: date,
    requested_at_ns: int,
    *,
    results: ResultCache,
    publisher: JobPublisher,
) -> None:
    """Publish the job of each member, whose id is that of the day's refresh: a second publish is recognised by it.

    Raises ``DependencyUnavailable``; some may have been published then, and the others wait for the next run.
    """
    jobs = [
        refresh_job(each.member_id, run_on, requested_at_ns=requested_at_ns, locale=each.locale) for each in questions
    ]
    for start in range(0, len(jobs), WINDOW):
        window = jobs[start : start + WINDOW]
        submissions = [
            submit(job, results=results, publisher=publisher, batch=True, comes_again=True) for job in window
        ]
        for outcome in await asyncio.gather(*submissions, return_exceptions=True):
            if outcome is not None:
                raise outcome
