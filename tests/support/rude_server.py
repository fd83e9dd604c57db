"""What listens where a server should, accepts, perhaps says something else, and hangs up, as proxies do.

A process of its own: within one process the other side would be slower to hang up than the client is to speak.
"""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.support.worker_process import ROOT


@contextmanager
def rude_server(greeting: bytes = b"") -> Iterator[int]:
    """The port of a server that sends every client ``greeting`` and hangs up."""
    command = [sys.executable, "-m", "tests.support.rude_server", greeting.hex()]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def _serve(greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            client, _ = listener.accept()
            with client, suppress(OSError):
                client.sendall(greeting)


if __name__ == "__main__":
    _serve(bytes.fromhex(sys.argv[1]))
