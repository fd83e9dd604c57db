"""The route that Prometheus scrapes."""

from collections.abc import Callable
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from api.health import HealthReporter
from api.refusals import Documented, documented

Expose = Callable[[str], tuple[bytes, str]]
"""An ``Accept`` header in, the exposition of all metrics and its content type out."""

EXAMPLE_EXPOSITION = """\
# HELP songs_ai_http_requests_total HTTP requests by route and class of status code.
# TYPE songs_ai_http_requests_total counter
songs_ai_http_requests_total{code="2xx",route="/health"} 12.0
"""
EXAMPLE_OPENMETRICS = """\
# HELP songs_ai_http_requests HTTP requests by route and class of status code.
# TYPE songs_ai_http_requests counter
songs_ai_http_requests_total{code="2xx",route="/health"} 12.0
# EOF
"""


def metrics_router(health: HealthReporter, expose: Expose) -> APIRouter:
    """``/metrics``."""
    router = APIRouter(tags=["metrics"], responses=documented([HTTPStatus.UNAUTHORIZED]))
    told: Documented = {
        HTTPStatus.OK.value: {
            "content": {
                "text/plain": {"example": EXAMPLE_EXPOSITION},
                "application/openmetrics-text": {"schema": {"type": "string"}, "example": EXAMPLE_OPENMETRICS},
            }
        }
    }

    @router.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse, responses=told)
    async def metrics(request: Request) -> Response:
        """Every metric, in the format that the ``Accept`` header asks for."""
        await health.report()  # so that the gauges of the dependencies are of now, whoever else probes
        body, content_type = expose(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return router
