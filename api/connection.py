"""One HTTP connection that nobody can hold open for nothing: uvicorn knows no limit but that of idle ones."""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.responses import problem


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What a connection may cost: seconds until a whole request is there, until what is sent is taken, and idle."""

    read_timeout_s: float = 10.0
    write_timeout_s: float = 10.0
    idle_timeout_s: int = 5
    max_header_bytes: int = 16_384
    max_connections: int = 256


class LimitedConnection(H11Protocol):
    """uvicorn's connection with deadlines and a ceiling.

    - A request must be there, its last byte of headers and body, within ``read_timeout_s`` of its first byte (and the
      first request of its connection's beginning): else 408. Bytes that trickle in change nothing.
    - What is sent must be taken within ``write_timeout_s``: else the connection is cut.
    - Beyond ``max_connections`` a new one is answered 503 and closed: sockets are also what jobs need.
    - What is not HTTP, or has headers beyond ``max_header_bytes``, is answered 400.
    """

    limits: ClassVar[HttpLimits] = HttpLimits()
    _reading: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See ``asyncio.Protocol``."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections are open")
        else:
            self._watch_reading()

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        if self.transport.is_closing():
            return  # answered already: what still comes is not read
        super().data_received(data)
        self._watch_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._stop_reading_clock()
        self._stop_writing_clock()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``: more is under way than the other side takes."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_writing_clock()

    def on_response_complete(self) -> None:
        """Once all is sent; the rest of a body that was answered before its end is still to come."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_writing()
        else:
            self._watch_reading()

    def timeout_keep_alive_handler(self) -> None:
        """Close what is idle."""
        super().timeout_keep_alive_handler()
        self._watch_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read as HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    # --- deadlines ---

    def _watch_reading(self) -> None:
        """The clock of a request runs from its first byte to its last."""
        if not self._awaits_more():
            self._stop_reading_clock()
        elif self._reading is None:
            self._reading = self.loop.call_later(self.limits.read_timeout_s, self._read_too_slowly)

    def _awaits_more(self) -> bool:
        if self.conn.their_state is h11.IDLE:
            # Between two requests the idle timeout rules, until a byte of the next one is there.
            is_idle = self.timeout_keep_alive_task is not None and not self.conn.trailing_data[0]
            return not is_idle
        return self.conn.their_state is h11.SEND_BODY

    def _read_too_slowly(self) -> None:
        detail = f"the request was not there whole within {self.limits.read_timeout_s:g} seconds"
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, detail)

    def _watch_writing(self) -> None:
        if self._writing is None:
            self._writing = self.loop.call_later(self.limits.write_timeout_s, self.transport.abort)

    def _stop_reading_clock(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _stop_writing_clock(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    # --- refusals ---

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer in the application's place, where it has not begun to, and close."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        if self.cycle is not None:
            # What the application may still have to say is not heard, and it is told so.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        response = problem(status, detail, headers={"Connection": "close"})
        self._write(h11.Response(status_code=status, headers=response.raw_headers, reason=status.phrase.encode()))
        self._write(h11.Data(data=bytes(response.body)))
        self._write(h11.EndOfMessage())
        self.transport.close()
        self._watch_writing()

    def _write(self, event: h11.Event) -> None:
        if sent := self.conn.send(event):
            self.transport.write(sent)
