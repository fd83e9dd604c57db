"""The scheduled tasks of a site, started by one of its workers."""

from config.settings import MEMORY_URL
from services.leader_lease import RedisLeaderLease
from services.task_runs import SqlTaskRuns
from workers.runtime.parts import Parts
from workers.runtime.tracing import worker_id
from workers.scheduler import TURNS_PER_LEASE, Scheduler
from workers.task_command import run_command


def scheduler_of(parts: Parts) -> Scheduler | None:
    """What stands for leader, or None where this worker starts no tasks: it is told so, or has no server in common."""
    settings = parts.settings
    in_memory = MEMORY_URL in (settings.broker_url.get_secret_value(), settings.redis_url.get_secret_value())
    if in_memory or not settings.leader_lease_s:
        return None
    expressions = dict(settings.schedule.expressions)
    if not settings.llm_enabled:
        # Without a model results follow from what is there whenever they are asked for: nothing can be made ready.
        expressions.pop("refresh", None)
    # Who waits looks once a turn: so the lease and a turn together are what the setting promises.
    lease_s = settings.leader_lease_s * TURNS_PER_LEASE / (TURNS_PER_LEASE + 1)
    return Scheduler(
        RedisLeaderLease(parts.redis, lease_s=lease_s, group=settings.name_prefix),
        SqlTaskRuns(parts.database),
        run_command,
        expressions=expressions,
        time_zone=settings.time_zone,
        lease_s=lease_s,
        worker=worker_id(),
        clock=parts.clock,
        observer=parts.metrics,
    )
