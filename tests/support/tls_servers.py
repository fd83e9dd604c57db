"""Real servers that speak TLS by certificates of a CA made for this test session, and that want passwords.

Their certificates name ``localhost`` and nothing else: ``127.0.0.1`` is the right server under a wrong name. The
passwords hold what URLs, logs and regular expressions trip over, between two words that occur nowhere else.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme

from tests.support.handshakes import mysql_connection
from tests.support.private_servers import PrivateMySQL, PrivateRabbitMQ, PrivateRedis, free_port

TLS_HOST, WRONG_HOST = "localhost", "127.0.0.1"


def made_up_password() -> str:
    """Two words of which neither may be seen anywhere, and between them what needs to be quoted."""
    return f"{secrets.token_hex(8)}/@:%?&=+{secrets.token_hex(8)}"


class Certificates:
    """A CA, and a certificate of it for ``localhost``, as files in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        ca = trustme.CA()
        issued = ca.issue_cert(TLS_HOST)
        self.ca = self._write("ca.pem", ca.cert_pem)
        self.certificate = self._write("certificate.pem", *issued.cert_chain_pems)
        self.key = self._write("key.pem", issued.private_key_pem)

    def _write(self, name: str, *blobs: trustme.Blob) -> Path:
        path = self._directory / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        path.chmod(0o644)  # servers run as users of their own
        return path


class TlsRedis(PrivateRedis):
    """Redis with a password and a second port that speaks TLS."""

    def __init__(self, password: str) -> None:
        super().__init__()
        self._password, self._tls_port = password, free_port()
        self._certificates = Certificates(self.directory)

    @property
    def url(self) -> str:
        return f"redis://:{quote(self._password, safe='')}@{WRONG_HOST}:{self.port}/0"

    def tls_url(self, host: str = TLS_HOST) -> str:
        return f"rediss://:{quote(self._password, safe='')}@{host}:{self._tls_port}/0"

    @property
    def ca_file(self) -> str:
        return str(self._certificates.ca)

    def _command(self) -> Sequence[str]:
        files = self._certificates
        tls = f"--tls-port {self._tls_port} --tls-auth-clients no --tls-cert-file {files.certificate}"
        more = f"--tls-key-file {files.key} --tls-ca-cert-file {files.ca}"
        return [*super()._command(), *tls.split(), *more.split(), "--requirepass", self._password]


class TlsMySQL(PrivateMySQL):
    """MySQL that speaks TLS to who asks for it, and whose user ``songs`` must ask; root has no password."""

    def __init__(self, password: str) -> None:
        super().__init__()
        self._password = password
        self._certificates = Certificates(self.directory)

    def tls_url(self, host: str = TLS_HOST, database: str = "songs", *, password: str | None = None) -> str:
        quoted = quote(self._password if password is None else password, safe="")
        return f"mysql://songs:{quoted}@{host}:{self.port}/{database}"

    @property
    def ca_file(self) -> str:
        return str(self._certificates.ca)

    def start(self) -> None:
        super().start()
        with contextlib.closing(mysql_connection(self.url)) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE IF NOT EXISTS songs CHARACTER SET utf8mb4")
            # at localhost, since MariaDB has a nameless user there who would come before any at %
            cursor.execute("CREATE USER IF NOT EXISTS songs@localhost IDENTIFIED BY %s REQUIRE SSL", (self._password,))
            cursor.execute("GRANT ALL ON *.* TO songs@localhost")

    def _command(self) -> Sequence[str]:
        files = self._certificates
        tls = [f"--ssl-ca={files.ca}", f"--ssl-cert={files.certificate}", f"--ssl-key={files.key}"]
        return [*super()._command(), *tls]


class TlsRabbitMQ(PrivateRabbitMQ):
    """RabbitMQ with a user ``songs`` and a second port that speaks TLS."""

    def __init__(self, password: str) -> None:
        super().__init__()
        self._password, self._tls_port = password, free_port()
        self._certificates = Certificates(self.directory)

    @property
    def url(self) -> str:
        return f"amqp://songs:{quote(self._password, safe='')}@{WRONG_HOST}:{self.port}/"

    def tls_url(self, host: str = TLS_HOST) -> str:
        return f"amqps://songs:{quote(self._password, safe='')}@{host}:{self._tls_port}/"

    @property
    def ca_file(self) -> str:
        return str(self._certificates.ca)

    def _prepare(self) -> None:
        super()._prepare()
        files = self._certificates
        settings: Mapping[str, object] = {
            "listeners.ssl.local": f"127.0.0.1:{self._tls_port}",
            "ssl_options.cacertfile": files.ca,
            "ssl_options.certfile": files.certificate,
            "ssl_options.keyfile": files.key,
            "ssl_options.verify": "verify_none",
            "ssl_options.fail_if_no_peer_cert": "false",
            "default_user": "songs",
            "default_pass": self._password,
        }
        lines = (f"{name} = {value}\n" for name, value in settings.items())
        (self.directory / "rabbitmq.conf").write_text("".join(lines))


@dataclass(frozen=True, slots=True)
class TlsServers:
    """One of each kind, and the file of a CA that none of them has its certificate from."""

    redis: TlsRedis
    mysql: TlsMySQL
    rabbitmq: TlsRabbitMQ
    other_ca_file: str
    passwords: Sequence[str]


@pytest.fixture(scope="session")
def tls_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServers]:
    """All three, running; the test that asks skips where one is not installed, and fails where ``CI`` is set."""
    missing = [kind.kind for kind in (PrivateRedis, PrivateMySQL, PrivateRabbitMQ) if not kind.installed()]
    if missing:
        advice = f"TLS is tested on servers installed here, of which {', '.join(missing)} is missing"
        pytest.fail(advice, pytrace=False) if os.environ.get("CI") else pytest.skip(advice)
    passwords = [made_up_password() for _ in range(3)]
    servers = TlsRedis(passwords[0]), TlsMySQL(passwords[1]), TlsRabbitMQ(passwords[2])
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.callback(server.close)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda server: server.start(), servers))
        other = Certificates(tmp_path_factory.mktemp("another-ca"))
        yield TlsServers(*servers, other_ca_file=str(other.ca), passwords=passwords)
