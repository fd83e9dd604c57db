"""TLS to every server: verified by the right CA under the right name, refused by any other, with what to mend."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from config.settings import Settings
from core.certificates import tls_problem
from core.errors import ConfigurationError, DependencyUnavailable, SongsAIError
from services.database import Database, open_database, parse_url, sync_engine
from services.migrations import current
from services.redis_client import open_redis, ping
from tests.support.messaging import delete_topology, private_topology
from tests.support.servers import BreakableServer
from tests.support.tls_servers import TLS_HOST, WRONG_HOST, TlsRabbitMQ, TlsRedis, TlsServers
from workers.amqp_broker import AmqpBroker

pytestmark = pytest.mark.timeout(180)  # the first of them starts three servers

Reach = Callable[[str, str], Awaitable[None]]
"""Reaches the server at a URL by the CAs of a file; raises where it cannot."""


async def reach_redis(url: str, ca_file: str) -> None:
    async with open_redis(url, max_connections=2, timeout_s=5, ca_file=ca_file) as client:
        await ping(client)


async def reach_mysql(url: str, ca_file: str) -> None:
    async with open_database(url, pool_size=2, timeout_s=10, ca_file=ca_file) as database:
        async with database.connect() as connection:
            cipher = (await connection.execute(sa.text("SHOW STATUS LIKE 'Ssl_cipher'"))).one()[1]
        assert bool(cipher) == bool(ca_file), "what was to be encrypted was not"


async def reach_mysql_offline(url: str, ca_file: str) -> None:
    await asyncio.to_thread(current, parse_url(url, ca_file=ca_file))


async def reach_rabbitmq(url: str, ca_file: str) -> None:
    broker = AmqpBroker(url, private_topology(), topology_mode="passive", ca_file=ca_file)
    try:
        await broker.start(within_s=15)
    except ConfigurationError as error:
        if "queue" not in str(error) and "exchange" not in str(error):
            raise  # what is missing there is what we came for: it could be asked
    finally:
        await broker.close()


KINDS = ["redis", "mysql", "mysql_offline", "rabbitmq"]
REACH: dict[str, Reach] = {
    "redis": reach_redis,
    "mysql": reach_mysql,
    "mysql_offline": reach_mysql_offline,
    "rabbitmq": reach_rabbitmq,
}
SETTING = {"redis": "REDIS", "mysql": "DATABASE", "mysql_offline": "DATABASE", "rabbitmq": "BROKER"}


def place(servers: TlsServers, kind: str, host: str = TLS_HOST) -> tuple[str, str]:
    """The URL of the server under that name, and its CA's file."""
    by_kind: dict[str, TlsRedis | TlsRabbitMQ] = {"redis": servers.redis, "rabbitmq": servers.rabbitmq}
    server = by_kind.get(kind, servers.mysql)
    return server.tls_url(host), server.ca_file


async def refusal(servers: TlsServers, kind: str, url: str, ca_file: str) -> str:
    with pytest.raises(SongsAIError) as caught:
        await REACH[kind](url, ca_file)
    told = f"{caught.value} {caught.value!r}"
    assert not any(word in told for password in servers.passwords for word in password.split("/@:%?&=+"))
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_right_ca_under_the_right_name_is_trusted(tls_servers: TlsServers, kind: str) -> None:
    url, ca_file = place(tls_servers, kind)
    await REACH[kind](url, ca_file)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_certificate_of_another_ca_is_refused_by_the_name_of_the_setting(
    tls_servers: TlsServers, kind: str
) -> None:
    url, _ = place(tls_servers, kind)
    told = await refusal(tls_servers, kind, url, tls_servers.other_ca_file)
    assert "certificate was refused: self-signed certificate in certificate chain" in told
    assert f"{SETTING[kind]}_CA_FILE must name" in told


@pytest.mark.parametrize("kind", KINDS)
async def test_a_certificate_of_another_host_is_refused_by_the_name_of_the_setting(
    tls_servers: TlsServers, kind: str
) -> None:
    told = await refusal(tls_servers, kind, *place(tls_servers, kind, WRONG_HOST))
    assert f"certificate is not valid for '{WRONG_HOST}'" in told
    assert f"{SETTING[kind]}_URL must name the host" in told


@pytest.mark.parametrize("kind", KINDS)
async def test_without_a_file_the_systems_cas_count_and_do_not_know_ours(tls_servers: TlsServers, kind: str) -> None:
    url, _ = place(tls_servers, kind)
    told = await refusal(tls_servers, kind, f"{url}?ssl=true" if "mysql" in kind else url, "")
    assert f"{SETTING[kind]}_CA_FILE" in told


async def test_a_port_without_tls_is_never_spoken_to_in_the_clear(
    tls_servers: TlsServers, redis_url: str, mysql_url: str, amqp_url: str
) -> None:
    told = await refusal(tls_servers, "rabbitmq", amqp_url.replace("amqp://", "amqps://"), tls_servers.other_ca_file)
    assert "does not speak TLS there (WRONG_VERSION_NUMBER), as BROKER_URL wants" in told
    # Redis waits for the rest of a command, and the drivers of MySQL ask in its own protocol first.
    assert await refusal(tls_servers, "redis", redis_url.replace("redis://", "rediss://"), tls_servers.other_ca_file)
    for kind in ("mysql", "mysql_offline"):
        assert await refusal(tls_servers, kind, mysql_url, tls_servers.other_ca_file)


async def test_jobs_go_over_a_verified_connection(tls_servers: TlsServers) -> None:
    url, ca_file = place(tls_servers, "rabbitmq")
    topology = private_topology()
    broker = AmqpBroker(url, topology, ca_file=ca_file)
    await broker.start()
    assert broker.health().connected
    await broker.close()
    await delete_topology(tls_servers.rabbitmq.url, topology)


async def test_a_server_that_comes_back_with_another_certificate_is_not_trusted(tls_servers: TlsServers) -> None:
    """Only Redis is restarted: what is shown is that connections made later are verified too."""
    server = tls_servers.redis
    async with open_redis(server.tls_url(), max_connections=2, timeout_s=5, ca_file=server.ca_file) as client:
        await ping(client)
        genuine = server._certificates.certificate.read_bytes(), server._certificates.key.read_bytes()
        try:
            _swap(server, Path(tls_servers.other_ca_file).parent)
            with pytest.raises(DependencyUnavailable, match="REDIS_CA_FILE"):
                await ping(client)
        finally:
            server._certificates.certificate.write_bytes(genuine[0])
            server._certificates.key.write_bytes(genuine[1])
            server.restart()
        await ping(client)


def _swap(server: BreakableServer, directory: Path) -> None:
    certificates = server._certificates  # type: ignore[attr-defined]
    certificates.certificate.write_bytes((directory / "certificate.pem").read_bytes())
    certificates.key.write_bytes((directory / "key.pem").read_bytes())
    server.restart()


async def test_a_mysql_certificate_that_names_no_host_may_be_trusted_by_its_ca_alone(tls_servers: TlsServers) -> None:
    url, ca_file = place(tls_servers, "mysql", WRONG_HOST)
    await reach_mysql(f"{url}?ssl_check_hostname=false", ca_file)
    await reach_mysql_offline(f"{url}?ssl_check_hostname=false", ca_file)
    told = await refusal(tls_servers, "mysql", f"{url}?ssl_check_hostname=false", tls_servers.other_ca_file)
    assert "DATABASE_CA_FILE" in told


# --- what would verify less is no option ---


@pytest.mark.parametrize("value", ["yes", "required", "VERIFY_CA"])
async def test_what_may_have_been_meant_to_turn_tls_on_is_not_taken_for_off(value: str) -> None:
    with pytest.raises(ConfigurationError, match="ssl="):
        Database(f"mysql://me:secret@host/songs?ssl={value}&charset=utf8mb4")


@pytest.mark.parametrize("option", ["ssl_check_hostname=false", "ssl=true&ssl_check_hostname=0"])
async def test_a_mysql_host_goes_unchecked_only_where_a_ca_is_named(option: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_CA_FILE"):
        Database(f"mysql://me:secret@host/songs?{option}")


@pytest.mark.parametrize("option", ["ssl_cert_reqs=none", "ssl_check_hostname=false", "ssl_ca_certs=/etc/ssl/all.pem"])
async def test_a_redis_url_cannot_turn_verification_off(option: str) -> None:
    with pytest.raises(ConfigurationError, match=option.partition("=")[0]):
        async with open_redis(f"rediss://:secret@host/0?{option}", max_connections=1, timeout_s=1):
            pass


def test_a_broker_url_cannot_turn_verification_off() -> None:
    with pytest.raises(ConfigurationError, match="no_verify_ssl"):
        AmqpBroker("amqps://me:secret@host/?no_verify_ssl=1", private_topology())


@pytest.mark.parametrize(
    "url",
    [
        "amqp://me:se/cret@host:5672/",
        "amqp://me:secret@host:port/",
        "amqp://me:secret@host:99999/",
        "http://me:secret@host/",
        "amqps:///",
        "secret",
        "",
    ],
)
def test_a_broker_url_that_is_none_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="BROKER_URL") as caught:
        AmqpBroker(url, private_topology())
    assert "cret" not in f"{caught.value} {caught.value!r}"
    assert caught.value.__cause__ is None


def test_mysql_options_without_a_ca_still_verify() -> None:
    """The drivers' own reading of these is: encrypt, for whoever answers."""
    for option in ("ssl=true", "ssl_cipher=ECDHE-RSA-AES256-GCM-SHA384"):
        engine = sync_engine(f"mysql://me@host/songs?{option}")
        _, arguments = engine.dialect.create_connect_args(engine.url)
        assert "ssl" not in arguments  # nothing of the URL is left to the driver
        engine.dispose()
        async_context = _context_of(f"mysql://me@host/songs?{option}")
        assert (async_context.verify_mode, async_context.check_hostname) == (ssl.CERT_REQUIRED, True)


def _context_of(url: str) -> ssl.SSLContext:
    from services.database import _tls_context  # noqa: PLC0415 - what no server here could show

    return _tls_context(parse_url(url))


@pytest.mark.parametrize("name", ["broker_ca_file", "database_ca_file", "redis_ca_file"])
@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_ca_file_that_is_none_is_refused_by_its_settings_name(name: str, content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValidationError, match=f"{name} is no readable PEM file"):
        Settings.model_validate({name: str(path)})


@pytest.mark.parametrize(
    ("name", "url"),
    [("broker", "amqp://host/"), ("database", "sqlite:///songs.db"), ("redis", "redis://host/0")],
)
def test_a_ca_file_beside_a_url_without_tls_is_refused(name: str, url: str, tls_servers: TlsServers) -> None:
    given = {f"{name}_url": url, f"{name}_ca_file": tls_servers.other_ca_file}
    with pytest.raises(ValidationError, match=f"{name}_url must begin with"):
        Settings.model_validate(given)


def test_only_trouble_with_tls_is_told_as_such() -> None:
    told = partial(tls_problem, url="URL", ca_file="FILE")
    assert told(ConnectionRefusedError(111, "refused")) is None
    assert told(ssl.SSLError(1, "EOF occurred")) is None
    loop = ValueError("a")
    loop.__context__ = KeyError("b")
    loop.__context__.__context__ = loop
    assert told(loop) is None
