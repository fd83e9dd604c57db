"""What listens where a database should: it hangs up, speaks something else, or garbles one reply of a real one."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

from sqlalchemy.engine import make_url

_HANG_UP_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: a reset in place of an orderly end


@contextmanager
def rude_server(greeting: bytes = b"") -> Iterator[int]:
    """The port of a server that accepts, sends ``greeting`` and hangs up; in a thread of its own."""
    with _listening() as (listener, port):
        Thread(target=_greet, args=(listener, greeting), daemon=True).start()
        yield port


@contextmanager
def garbling_proxy(mysql_url: str, marker: bytes, reply: bytes) -> Iterator[str]:
    """The URL of a proxy before ``mysql_url`` that answers any statement with ``marker`` in it by ``reply``.

    An empty ``reply`` cuts the connection. Everything else is passed on as it is, in threads.
    """
    url = make_url(mysql_url)
    upstream = (url.host or "127.0.0.1", url.port or 3306)
    with _listening() as (listener, port):
        Thread(target=_proxy, args=(listener, upstream, marker, reply), daemon=True).start()
        yield url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)


@contextmanager
def _listening() -> Iterator[tuple[socket.socket, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener, listener.getsockname()[1]
        # Wakes the thread that waits in accept; closing alone would not.
        listener.shutdown(socket.SHUT_RDWR)


def _greet(listener: socket.socket, greeting: bytes) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            with client:
                client.sendall(greeting)
                if not greeting:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _HANG_UP_AT_ONCE)


def _proxy(listener: socket.socket, upstream: tuple[str, int], marker: bytes, reply: bytes) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(upstream)
            Thread(target=_pass_on, args=(server, client, None, b""), daemon=True).start()
            Thread(target=_pass_on, args=(client, server, marker, reply), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, marker: bytes | None, reply: bytes) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            if marker is None or marker not in data:
                target.sendall(data)
            elif reply:
                source.sendall(reply)
            else:
                break
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    source.close()
