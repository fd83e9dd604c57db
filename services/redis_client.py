"""Opens Redis, and says in our own errors when it is not to be had.

One primary (with replicas, if you like). Redis Cluster is not supported: the keys of one job and of its member, whose
names the backend chose, hash to different slots, and they are written together or not at all.
"""

import asyncio
import hashlib
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from core.certificates import tls_problem
from core.errors import ConfigurationError, DependencyUnavailable

MEMORY_SCHEME = "memory://"
_SCHEMES = ("redis://", "rediss://", "unix://")
_TLS_SCHEME = "rediss://"
_TLS_OPTIONS = {"ssl_certfile", "ssl_keyfile"}
_SCRIPTS = Path(__file__).parent / "redis_scripts"

_N_RETRIES = 3
_RETRY_BASE_S = 0.05
_RETRY_CAP_S = 0.5
_IDLE_PING_S = 30

# Refusals that name the state of the server or of the account, not a mistake of ours: they end when it is mended. The
# codes are those of createSharedObjects in Redis' server.c. Redis before 7 tells what stopped a script in the middle of
# a sentence, where the code follows a hyphen.
_STATE_OF_SERVER = re.compile(r"(?:^|-)(OOM|READONLY|LOADING|MISCONF|NOREPLICAS|MASTERDOWN|BUSY|NOPERM|NOAUTH)\b")

# What uvloop raises, as a RuntimeError that redis-py lets through, where the server has hung up since the last step.
_HUNG_UP = "the handler is closed"


class _VerifiedConnection(SSLConnection):
    """TLS by a context that all connections share; the library makes one for each, and trusts the system's CAs too."""

    def __init__(self, *, tls: ssl.SSLContext, **options: Any) -> None:  # noqa: ANN401 - the library's own
        super().__init__(**options)
        self.ssl_context.context = tls


def _tls_context(url: str, ca_file: str) -> ssl.SSLContext:
    """One that verifies; ``url`` may name a client's certificate, and nothing that would make it verify less."""
    options = {name: values[-1] for name, values in parse_qs(urlsplit(url).query).items() if name.startswith("ssl_")}
    if unknown := sorted(set(options) - _TLS_OPTIONS):
        raise ConfigurationError(
            f"REDIS_URL has an option {unknown[0]!r}: certificates are always verified, see REDIS_CA_FILE"
        )
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"REDIS_CA_FILE, or a certificate that REDIS_URL names: {error}") from error
    return context


def _pool(url: str, *, max_connections: int, timeout_s: float, ca_file: str) -> BlockingConnectionPool:
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        health_check_interval=_IDLE_PING_S,
        # Lost connections only: to try again after a timeout would make every wait a multiple of ``timeout_s``. What
        # we send may be sent twice, since every script of ours does nothing the second time.
        retry=Retry(
            ExponentialWithJitterBackoff(base=_RETRY_BASE_S, cap=_RETRY_CAP_S),
            _N_RETRIES,
            supported_errors=(exceptions.ConnectionError, RuntimeError),  # type: ignore[arg-type] # see _HUNG_UP
        ),
        client_name="songs-ai",
        # Nothing here needs RESP3, and with it come handlers for a cloud vendor's maintenance pushes.
        protocol=2,
    )
    if url.startswith(_TLS_SCHEME):
        pool.connection_class = _VerifiedConnection
        pool.connection_kwargs["tls"] = _tls_context(url, ca_file)
    return pool


def _client(url: str, *, max_connections: int, timeout_s: float, ca_file: str) -> Redis:
    if url.startswith(MEMORY_SCHEME):
        import fakeredis  # noqa: PLC0415 - only for embedded use

        # A server of its own, or all memory clients of the process would share one.
        return fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(), protocol=2)
    if not url.startswith(_SCHEMES):
        raise ConfigurationError(f"REDIS_URL must begin with one of {', '.join(_SCHEMES)} and {MEMORY_SCHEME}")
    try:
        return Redis.from_pool(_pool(url, max_connections=max_connections, timeout_s=timeout_s, ca_file=ca_file))
    except ValueError:
        # The parser's sentence quotes parts of the URL, and so perhaps of the password.
        raise ConfigurationError("REDIS_URL is not a valid URL, such as redis://HOST:6379/0") from None


@asynccontextmanager
async def open_redis(url: str, *, max_connections: int, timeout_s: float, ca_file: str = "") -> AsyncIterator[Redis]:
    """A client of ``redis://``, ``rediss://``, ``unix://`` or ``memory://`` (in this process); closed at the end.

    It connects when first used, by at most ``max_connections``: who finds none free waits for one. That wait, a connect
    and an answer may take ``timeout_s`` each. Replies are bytes. Raises ``ConfigurationError`` for any other URL.

    With ``rediss://`` the server's certificate and name are verified, by the CAs of ``ca_file`` or else the system's.
    """
    client = _client(url, max_connections=max_connections, timeout_s=timeout_s, ca_file=ca_file)
    try:
        yield client
    finally:
        await client.aclose()


def _is_outage(error: exceptions.RedisError) -> bool:
    if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError):
        return True
    if isinstance(error, exceptions.ResponseError):
        # redis-py cuts a code that it knows off the sentence, and keeps it apart.
        return bool(_STATE_OF_SERVER.search(f"{error.status_code or ''} {error}".lstrip()))
    return False


@contextmanager
def _no_cancellation_lost() -> Iterator[None]:
    # redis-py sends through asyncio.wait_for, which before Python 3.12 drops a cancellation that arrives in the moment
    # it ends (https://github.com/python/cpython/issues/86296): the task would go on as if nobody had cancelled it.
    task = asyncio.current_task()
    n_before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task and task.cancelling() > n_before:
            raise asyncio.CancelledError


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turn what the state of Redis causes into ``DependencyUnavailable``; mistakes of ours go through as they are.

    Every use of a client belongs under it. Outages are: no connection, no free connection, no answer in time, memory
    full, a disk that cannot be written, a read-only replica, a server still loading or busy, and an account that is
    refused. A cancellation that the client library swallowed is raised again.
    """
    with _no_cancellation_lost():
        try:
            yield
        except RuntimeError as error:
            if not str(error).endswith(_HUNG_UP):
                raise
            raise DependencyUnavailable("redis", "the server hung up") from error
        except exceptions.RedisError as error:
            if not _is_outage(error):
                raise
            untrusted = tls_problem(error, url="REDIS_URL", ca_file="REDIS_CA_FILE")
            raise DependencyUnavailable("redis", untrusted or f"{type(error).__name__}: {error}") from error


class RedisScript:
    """A Lua script of ``services/redis_scripts``, called by its digest; a server that forgot it is sent it again.

    Of several ``names`` the last is the script, and those before define what it uses.
    """

    def __init__(self, client: Redis, *names: str) -> None:
        parts = [(_SCRIPTS / f"{name}.lua").read_text(encoding="utf-8") for name in names]
        self._client = client
        self._text = "\n".join(parts)
        # the digest by which Redis names scripts, no secret
        self._digest = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], args: Sequence[str | bytes | int]) -> object:
        """What the script returned; raises ``DependencyUnavailable``."""
        with redis_errors():
            try:
                result: object = await self._client.evalsha(self._digest, len(keys), *keys, *args)
            except exceptions.NoScriptError:
                # Not SCRIPT LOAD and the digest again, as the library does: a server that restarts in between forgets.
                result = await self._client.eval(self._text, len(keys), *keys, *args)
        return result


async def ping(client: Redis) -> None:
    """Return once Redis has answered; raises ``DependencyUnavailable``."""
    with redis_errors():
        await client.ping()


async def appendonly_enabled(client: Redis) -> bool | None:
    """Whether Redis writes its append-only file, or None where we may not ask; raises ``DependencyUnavailable``.

    Without it a server that dies forgets results whose deliveries were acked.
    """
    with redis_errors():
        try:
            found = await client.config_get("appendonly")
        except exceptions.ResponseError:
            # Managed servers refuse CONFIG to their customers, by an ACL or by not having the command.
            return None
    return {"yes": True, "no": False}.get(found.get("appendonly") or "")
