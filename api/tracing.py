"""Spans of what is asked for by HTTP."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.tracing import Tracing


class TracedRequests:
    """Makes each POST to one of ``paths`` a span of ``tracing``: probes and scrapes would be most of all traces."""

    def __init__(self, app: ASGIApp, *, tracing: Tracing, paths: frozenset[str]) -> None:
        self._app = app
        self._tracing = tracing
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value for name, value in scope["headers"]}
        with self._tracing.request("POST", scope["path"], headers) as answered:

            async def watch(message: Message) -> None:
                if message["type"] == "http.response.start":
                    answered(message["status"])
                await send(message)

            await self._app(scope, receive, watch)
