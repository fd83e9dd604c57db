"""Takes messages whose properties the AMQP library cannot read, so that none of them ends the connection.

A broker hands out any bytes that a publisher put there: a timestamp in microseconds, a name that is not UTF-8, tables
in tables without end. pamqp 4 raises at those, aiormq 7 then closes the connection, and the broker delivers the same
message again on the next one: one such message stops a worker for good. What counts of a message here is its body.
"""

import struct

from pamqp.commands import Basic
from pamqp.header import ContentHeader

from core.errors import encodable

UNREADABLE_HEADER = "x-unreadable-properties"
_READING_ERRORS = (ValueError, TypeError, struct.error, OverflowError, ArithmeticError, OSError, RecursionError)
_MAX_ERROR_CHARS = 200
_LEAST_BYTES = 14  # class, weight, size of the body, flags: without these there is nothing to go on with

_read_all = ContentHeader.unmarshal


def _read_what_can_be_read(self: ContentHeader, data: bytes) -> None:
    """As the library reads it; from the first property that it cannot, all are left out, and a header says why."""
    try:
        _read_all(self, data)
    except _READING_ERRORS as error:
        if len(data) < _LEAST_BYTES:
            raise
        problem = encodable(f"{_unreadable(self.properties, data)}: {error}")[:_MAX_ERROR_CHARS]
        self.properties.headers = {**(self.properties.headers or {}), UNREADABLE_HEADER: problem}


def _unreadable(properties: Basic.Properties, data: bytes) -> str:
    """The first property that is there and was not read; they stand in the order of their names."""
    (flags,) = struct.unpack_from(">H", data, 12)
    there = (name for name in properties.__slots__ if flags & properties.flags[name])
    return next((name for name in there if getattr(properties, name) is None), "properties")


def forgive_unreadable_properties() -> None:
    """Make the library do so in this process; neither it nor aiormq has a place to hand this in."""
    ContentHeader.unmarshal = _read_what_can_be_read  # type: ignore[method-assign]
