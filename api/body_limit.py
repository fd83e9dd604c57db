"""How large the body of a request may be."""

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.responses import problem


class BodyLimit:
    """Refuses with 413 what announces, or turns out to hold, more than ``max_bytes``; nobody keeps the rest."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif _announced_bytes(scope) > self._max_bytes:
            response = problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._detail)
            await response(scope, receive, send)
        else:
            await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        n_bytes = 0

        async def receive_counted() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self._max_bytes:
                # Of this class, since FastAPI makes a 400 of whatever else interrupts the reading of a body.
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._detail)
            return message

        return receive_counted

    @property
    def _detail(self) -> str:
        return f"the body is larger than {self._max_bytes} bytes"


def _announced_bytes(scope: Scope) -> float:
    announced = Headers(scope=scope).get("content-length", "")
    # No int: of thousands of digits it makes an error.
    return float(announced) if announced.isascii() and announced.isdigit() else 0
