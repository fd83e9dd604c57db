"""Jobs as their pollers see them: one look, or a stream of server-sent events."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Header, Path
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import ConfigDict
from pydantic.config import JsonDict
from starlette.exceptions import HTTPException

from api.contract_shapes import EXAMPLE_CANDIDATE, EXAMPLE_GROUP
from api.query import KNOWN_ALONE
from api.refusals import READ, Documented, away, documented, not_found, wrong_input
from api.shapes import Shape
from core.errors import DependencyUnavailable
from core.job_codec import MAX_JOB_ID_CHARS
from core.ports.results import JobView, ResultCache
from models.job import JobStatus

LOOK_EVERY_S = 0.5
STREAM_S = 600.0
"""A stream ends after so long, whatever the job does; browsers come back by themselves and miss nothing."""

_ENDS = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED})
_NO_JOB = "there is no such job, or no more: they are kept for a day"
_JobId = Annotated[str, Path(min_length=1, max_length=MAX_JOB_ID_CHARS)]


_EXAMPLE: JsonDict = {
    "jobId": "4f5d6c1e-7d07-4b5e-9f3e-2f0c2f6f8c11",
    "status": "running",
    "progress": 50,
    "submittedAt": "2026-01-31T09:00:00.007Z",
    "startedAt": "2026-01-31T09:00:00.031Z",
    "finishedAt": None,
    "error": None,
    "result": None,
}
EXAMPLE_STREAM = """\
event: running
data: {"jobId":"4f5d6c1e-7d07-4b5e-9f3e-2f0c2f6f8c11","status":"running","progress":0,"error":null}
id: running-0

event: running
data: {"jobId":"4f5d6c1e-7d07-4b5e-9f3e-2f0c2f6f8c11","status":"running","progress":50,"error":null}
id: running-50

: ping

event: succeeded
data: {"jobId":"4f5d6c1e-7d07-4b5e-9f3e-2f0c2f6f8c11","status":"succeeded","progress":100,"error":null}
id: succeeded-100

"""


class FailureShape(Shape):
    """Why a job failed."""

    code: str
    message: str

    @classmethod
    def of(cls, view: JobView) -> "FailureShape | None":
        """That of ``view``, or None where it has not failed."""
        code = view.fields.get("error.code")
        return None if code is None else cls(code=code, message=view.fields.get("error.message", ""))


class JobShape(Shape):
    """How a job stands; ``progress`` runs from 0 to 100. ``result`` is the document that the backend reads."""

    job_id: str
    status: JobStatus
    progress: int
    submitted_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    error: FailureShape | None = None
    result: Mapping[str, object] | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **_EXAMPLE,
                    "status": "succeeded",
                    "progress": 100,
                    "finishedAt": "2026-01-31T09:00:04.221Z",
                    "result": {
                        "status": "completed",
                        "message": "1 recommendations in 1 groups",
                        "generated_date": "2026-01-31",
                        "groups": [EXAMPLE_GROUP],
                        "candidates": [EXAMPLE_CANDIDATE],
                    },
                },
                _EXAMPLE,
            ]
        }
    )

    @classmethod
    def of(cls, job_id: str, view: JobView) -> "JobShape":
        """``view`` as answers show it."""
        return cls(
            job_id=job_id,
            status=view.status,
            progress=view.progress,
            submitted_at=view.fields.get("submittedAt"),
            started_at=view.fields.get("startedAt"),
            finished_at=view.fields.get("finishedAt"),
            error=FailureShape.of(view),
            result=None if view.result is None else orjson.loads(view.result),
        )


class ProgressShape(Shape):
    """One event of the stream."""

    job_id: str
    status: JobStatus
    progress: int
    error: FailureShape | None = None


def jobs_router(results: ResultCache) -> APIRouter:
    """The routes."""
    too_long = wrong_input("job_id", f"must be at most {MAX_JOB_ID_CHARS} long", "j" * (MAX_JOB_ID_CHARS + 1))
    router = APIRouter(
        tags=["jobs"],
        dependencies=[KNOWN_ALONE],
        responses=documented(READ) | away("redis") | not_found(_NO_JOB) | too_long,
    )

    async def known(job_id: _JobId) -> JobView:
        view = await results.job(job_id)
        if view is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, _NO_JOB)
        return view

    known_job = Annotated[JobView, Depends(known)]

    @router.get("/jobs/{job_id}", summary="How a job stands, and its result")
    async def job(job_id: _JobId, view: known_job) -> JobShape:
        """How a job stands, with its result once it succeeded."""
        return JobShape.of(job_id, view)

    stream: Documented = {HTTPStatus.OK.value: {"content": {"text/event-stream": {"example": EXAMPLE_STREAM}}}}

    @router.get(
        "/jobs/{job_id}/events",
        summary="Follow a job as server-sent events",
        response_class=EventSourceResponse,
        responses=stream,
    )
    async def events(
        job_id: _JobId, view: known_job, last_event_id: Annotated[str, Header(max_length=100)] = ""
    ) -> AsyncIterator[ServerSentEvent]:
        """Server-sent events: each change of status or progress until the job has ended, and heartbeats between.

        The first event is how it stands, unless ``Last-Event-ID`` says that this is known; the last one, of type
        ``succeeded`` or ``failed``, always comes.
        """
        async for event in _changes(results, job_id, view, last_event_id):
            yield event

    return router


async def _changes(results: ResultCache, job_id: str, view: JobView, told: str) -> AsyncIterator[ServerSentEvent]:
    loop = asyncio.get_running_loop()
    ends_at_s = loop.time() + STREAM_S
    while True:
        has_ended, now = view.status in _ENDS, f"{view.status.value}-{view.progress}"
        if has_ended or now != told:
            yield ServerSentEvent(event=view.status.value, id=now, raw_data=_told(job_id, view))
            told = now
        if has_ended or loop.time() >= ends_at_s:
            return
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            seen = await results.job(job_id)
        except DependencyUnavailable:
            continue  # what was seen last stands until there is an answer
        if seen is None:
            return
        view = seen


def _told(job_id: str, view: JobView) -> str:
    told = ProgressShape(job_id=job_id, status=view.status, progress=view.progress, error=FailureShape.of(view))
    return told.model_dump_json(by_alias=True)
