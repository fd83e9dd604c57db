"""What every request passes first and its answer last: the count of them, a limit of time, and a 500 for bugs."""

import asyncio
from http import HTTPStatus
from typing import Protocol

import structlog
from fastapi import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.recommendations import RefreshObserver
from api.responses import RETRY_AFTER_S, WENT_WRONG, problem
from api.route_templates import RouteTemplates
from core.ports.clock import Clock
from models.log_event import LogEvent

EVENT_STREAM = b"text/event-stream; charset=utf-8"

log = structlog.get_logger()


class RequestObserver(RefreshObserver, Protocol):
    """Sees every request, and what it asks for."""

    def http_request(self, *, route: str, status: int, seconds: float) -> None:
        """A request was answered; ``route`` is the template of its path, empty where none matched."""


class RequestBoundary:
    """Counts every request, and turns what nobody expected into a 500 that tells nothing of the inside.

    What takes longer than ``timeout_s`` is cancelled and answered with 503; a stream of events has to begin by then.
    """

    def __init__(
        self, app: ASGIApp, *, observer: RequestObserver, clock: Clock, routes: RouteTemplates, timeout_s: float
    ) -> None:
        self._app = app
        self._observer = observer
        self._clock = clock
        self._routes = routes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # By its path, since what is refused at the door meets no route.
        route = self._routes.of(scope["path"])
        started_s = self._clock.monotonic_s()
        status = await self._answer(route, scope, receive, send)
        seconds = self._clock.monotonic_s() - started_s
        self._observer.http_request(route=route, status=status, seconds=seconds)

    async def _answer(self, route: str, scope: Scope, receive: Receive, send: Send) -> int:
        status: int | None = None

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if (b"content-type", EVENT_STREAM) in message["headers"]:
                    limit.reschedule(None)
            await send(message)

        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                await self._app(scope, receive, watch)
        except Exception:
            if limit.expired():
                log.warning(LogEvent.HTTP_REQUEST_FAILED, route=route, error=f"no answer within {self._timeout_s:g} s")
            else:
                log.exception(LogEvent.HTTP_REQUEST_FAILED, route=route)
            if status is not None:
                raise  # too late for another answer: the server cuts the connection
            await self._apology(took_too_long=limit.expired())(scope, receive, watch)
        return status or HTTPStatus.INTERNAL_SERVER_ERROR

    def _apology(self, *, took_too_long: bool) -> Response:
        if not took_too_long:
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR, WENT_WRONG)
        detail = f"this took longer than {self._timeout_s:g} seconds; try again in {RETRY_AFTER_S} seconds"
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": str(RETRY_AFTER_S)})
