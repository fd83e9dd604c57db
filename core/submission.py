"""Putting a job of ours on the queue, so that its poller never sees a wrong status."""

import structlog

from core.errors import DependencyUnavailable
from core.ports.messages import JobPublisher
from core.ports.results import ResultCache
from models.job import Job
from models.log_event import LogEvent

log = structlog.get_logger()


async def submit(
    job: Job, *, results: ResultCache, publisher: JobPublisher, batch: bool = False, comes_again: bool = False
) -> None:
    """Mark ``job`` queued, then publish it: in this order, or a fast worker's ``running`` would be overwritten.

    Raises ``DependencyUnavailable`` (``PublishRefused`` among them); a job that was not published ends ``failed``,
    unless it ``comes_again`` by the same id: a job that has failed is not run by whoever finds it in the queue.
    """
    await results.mark_queued(job)
    try:
        await publisher.publish_job(job, batch=batch)
    except DependencyUnavailable as error:
        if not comes_again:
            await _give_up(job, error, results)
        raise


async def _give_up(job: Job, error: DependencyUnavailable, results: ResultCache) -> None:
    try:
        await results.fail(job.job_id, code=error.code, message=str(error))
    except DependencyUnavailable as second:
        # The caller is told of the first error; the status expires by itself.
        log.warning(LogEvent.DEPENDENCY_CHECK_FAILED, job_id=job.job_id, error=str(second))
