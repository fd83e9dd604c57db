"""The commands that publish a job and read its result."""

import asyncio
import uuid
from datetime import UTC, datetime

import orjson
import typer

from commands.running import need_a_broker, run, start
from commands.screen import say, stop, tell_json
from config.settings import MEMORY_URL, Settings
from core.ports.results import JobView
from core.submission import submit
from models.job import Job, JobContext, JobStatus, Strategy
from workers.runtime.parts import Parts, open_parts


def publish(
    *,
    member: int,
    favorites: str,
    strategy: Strategy,
    top_k: int | None,
    locale: str | None,
    wish: str,
    wait: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Publish a job as the backend does; print its id, or with --wait its result."""
    job = Job(
        job_id=str(uuid.uuid4()),
        member_id=member,
        favorite_item_ids=_ids(favorites),
        strategy=strategy,
        top_k=top_k,
        locale=locale,
        context=JobContext(query=wish) if wish else None,
        source="manual",
        requested_at_ns=int(datetime.now(UTC).timestamp() * 1_000_000) * 1_000,
    )

    async def step(settings: Settings) -> None:
        need_a_broker(settings, "no worker can take the job (`demo` runs both in one)")
        async with open_parts(settings) as parts:
            await start(parts.broker)
            await submit(job, results=parts.results, publisher=parts.publisher)
            if wait:
                await _print_result(parts, job.job_id, timeout_s, as_json=as_json)
            elif as_json:
                tell_json({"job_id": job.job_id, "status": JobStatus.QUEUED})
            else:
                say(job.job_id)

    run(step)


def result(*, job_id: str, timeout_s: float, as_json: bool) -> None:
    """Print a job's result as the backend reads it."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            await _print_result(parts, job_id, timeout_s, as_json=as_json)

    run(step)


async def _print_result(parts: Parts, job_id: str, timeout_s: float, *, as_json: bool) -> None:
    deadline_s = parts.clock.monotonic_s() + timeout_s
    while (view := await parts.results.job(job_id)) is None or view.status not in (
        JobStatus.SUCCEEDED,
        JobStatus.FAILED,
    ):
        if parts.clock.monotonic_s() >= deadline_s:
            if as_json:
                tell_json({"job_id": job_id, "status": view.status if view else "unknown"})
            stop(f"job {job_id} is {view.status if view else 'unknown'}; {_why(parts.settings)}")
        await asyncio.sleep(0.1)
    found = None if view.result is None else orjson.loads(view.result)
    if as_json:
        tell_json({"job_id": job_id, "status": view.status, "result": found, "error": _error_of(view)})
    if found is None:
        stop(f"job {job_id} failed: {view.fields.get('error.code')}: {view.fields.get('error.message')}")
    if not as_json:
        tell_json(found)


def _why(settings: Settings) -> str:
    if settings.redis_url.get_secret_value() == MEMORY_URL:
        return f"REDIS_URL is {MEMORY_URL}, where no other process sees what this one keeps: name the workers' Redis"
    return "is a worker running?"


def _error_of(view: JobView) -> dict[str, str | None] | None:
    if view.status is JobStatus.SUCCEEDED:
        return None
    return {"code": view.fields.get("error.code"), "message": view.fields.get("error.message")}


def _ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise typer.BadParameter(f"item ids must be integers, comma-separated, got {text!r}") from error
