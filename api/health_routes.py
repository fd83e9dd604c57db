"""The routes of probes: whether the process runs, has started, and can take jobs."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import ConfigDict
from pydantic.config import JsonDict

from api.health import Finding, Health, HealthReporter
from api.refusals import Documented, documented
from api.responses import json_response
from api.shapes import WireModel


class LiveAnswer(WireModel):
    """The process runs."""

    status: Literal["ok"]

    model_config = ConfigDict(json_schema_extra={"example": {"status": "ok"}})


class StartedAnswer(WireModel):
    """Jobs could be taken at some time."""

    started: Literal[True]

    model_config = ConfigDict(json_schema_extra={"example": {"started": True}})


class NotStartedAnswer(WireModel):
    """Not ready for the first time yet."""

    started: Literal[False]

    model_config = ConfigDict(json_schema_extra={"example": {"started": False}})


_WELL: JsonDict = {"status": "ok", "reason": None, "latency_ms": 0.412, "checked_at": "2026-01-31T09:00:00.123456Z"}
_AWAY: JsonDict = {**_WELL, "status": "unavailable", "reason": "no answer within 1 s", "latency_ms": 1000.201}
_READY: JsonDict = {"status": "ok", "ready": True, "reason": None, "checks": {"broker": _WELL, "redis": _WELL}}
_NOT_READY: JsonDict = {**_READY, "status": "unavailable", "ready": False, "checks": {"broker": _WELL, "redis": _AWAY}}


class ReadyAnswer(WireModel):
    """Jobs can be taken; ``checks`` say how each dependency stands, by its name."""

    status: Literal[Health.OK, Health.DEGRADED]
    ready: Literal[True]
    reason: None
    checks: Mapping[str, Finding]

    model_config = ConfigDict(json_schema_extra={"example": _READY})


class NotReadyAnswer(WireModel):
    """Jobs cannot be taken; where none of the ``checks`` is why, ``reason`` says it."""

    status: Literal[Health.UNAVAILABLE]
    ready: Literal[False]
    reason: str | None
    checks: Mapping[str, Finding]

    model_config = ConfigDict(json_schema_extra={"example": _NOT_READY})


def health_router(reporter: HealthReporter) -> APIRouter:
    """``/health/live``, ``/health/started``, ``/health/ready`` and, the same as the latter, ``/health``."""
    router = APIRouter(tags=["health"], responses=documented([HTTPStatus.UNAUTHORIZED]))

    @router.get(
        "/health/live", summary="Whether the process runs", responses={HTTPStatus.OK.value: {"model": LiveAnswer}}
    )
    async def live() -> Response:
        """200 as long as the event loop turns; asks no dependency, since a restart would mend none."""
        return json_response({"status": Health.OK})

    @router.get(
        "/health/started", summary="Whether jobs could ever be taken", responses=_told(StartedAnswer, NotStartedAnswer)
    )
    async def started() -> Response:
        """503 until jobs could be taken for the first time, and 200 from then on: for probes that wait for a start."""
        has_started = await reporter.has_started()
        return json_response({"started": has_started}, status_code=200 if has_started else 503)

    ready_or_not = _told(ReadyAnswer, NotReadyAnswer)

    @router.get("/health/ready", summary="Whether jobs can be taken", responses=ready_or_not)
    @router.get("/health", summary="Whether jobs can be taken, as the wire contract calls it", responses=ready_or_not)
    async def ready() -> Response:
        """200 where jobs can be taken, else 503; says of every dependency how it stands, and why."""
        report = await reporter.report()
        body = {"status": report.status, "ready": report.ready, "reason": report.reason, "checks": report.findings}
        return json_response(body, status_code=200 if report.ready else 503)

    return router


def _told(well: type[WireModel], unwell: type[WireModel]) -> Documented:
    return {
        HTTPStatus.OK.value: {"model": well},
        HTTPStatus.SERVICE_UNAVAILABLE.value: {"model": unwell, "description": unwell.__doc__},
    }
