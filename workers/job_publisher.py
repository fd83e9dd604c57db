"""Puts jobs of ours on the queue, as the backend does."""

import structlog

from core.job_codec import encode_job
from core.tracing import NO_TRACING, Tracing
from models.job import Job
from models.log_event import LogEvent
from workers.broker import Broker, OutgoingMessage, Unroutable
from workers.topology import Route

log = structlog.get_logger()


class BrokerJobPublisher:
    """The ``JobPublisher`` of a broker: persistent UTF-8 JSON to the main or the batch queue."""

    def __init__(self, broker: Broker, tracing: Tracing = NO_TRACING) -> None:
        self._broker = broker
        self._tracing = tracing

    async def publish_job(self, job: Job, *, batch: bool = False) -> None:
        """Return once the broker has confirmed it; raises ``PublishRefused``."""
        topology = self._broker.topology
        route = topology.batch if batch else topology.main
        try:
            await self._publish(job, route)
        except Unroutable:
            # The batch queue is ours alone: where we may not declare, it may not be there.
            if not batch:
                raise
            route = topology.main
            await self._publish(job, route)
        log.info(LogEvent.JOB_PUBLISHED, job_id=job.job_id, route=route.name, source=job.source)

    async def _publish(self, job: Job, route: Route) -> None:
        message = OutgoingMessage(exchange=route.exchange, routing_key=route.routing_key, body=encode_job(job))
        with self._tracing.publishing(route.queue, job_id=job.job_id, trace_id=job.trace_id) as headers:
            await self._broker.publish(message.with_headers(headers))
