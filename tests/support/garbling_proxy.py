"""A proxy before a real database that answers chosen statements by something else, or cuts the connection at them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

from sqlalchemy.engine import make_url


@contextmanager
def garbling_proxy(mysql_url: str, marker: bytes, reply: bytes) -> Iterator[str]:
    """The URL of a proxy before ``mysql_url`` that answers any statement with ``marker`` in it by ``reply``.

    An empty ``reply`` cuts the connection. Everything else is passed on as it is, in threads.
    """
    url = make_url(mysql_url)
    upstream = (url.host or "127.0.0.1", url.port or 3306)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=_proxy, args=(listener, upstream, marker, reply), daemon=True).start()
        port = listener.getsockname()[1]
        try:
            yield url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        finally:
            # Wakes the thread that waits in accept; closing alone would not.
            listener.shutdown(socket.SHUT_RDWR)


def _proxy(listener: socket.socket, upstream: tuple[str, int], marker: bytes, reply: bytes) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(upstream)
            Thread(target=_pass_on, args=(server, client, None, b""), daemon=True).start()
            Thread(target=_pass_on, args=(client, server, marker, reply), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, marker: bytes | None, reply: bytes) -> None:
    with source, suppress(OSError):
        while data := source.recv(65536):
            if marker is None or marker not in data:
                target.sendall(data)
            elif reply:
                source.sendall(reply)
            else:
                break
        for end in (source, target):
            end.shutdown(socket.SHUT_RDWR)
