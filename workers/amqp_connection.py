"""The connection to RabbitMQ: made patiently, kept by aio-pika, and the topology declared over it.

The library keeps the connection (``RobustConnection`` reconnects by itself). The channels on it are plain ones, opened
here and made again from nothing by whoever needs them: a robust channel would restore its consumers too, but not say
when they are gone, nor look whether the broker still knows them.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

import aio_pika
import structlog
from aio_pika.connection import make_url
from aio_pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelNotFoundEntity,
    InvalidFrameError,
    ProbableAuthenticationError,
)
from aio_pika.robust_connection import RobustConnection
from aiormq import spec
from aiormq.abc import AbstractChannel as UnderlayChannel
from yarl import URL

from core.certificates import tls_problem
from core.errors import ConfigurationError, DependencyUnavailable
from models.log_event import LogEvent
from workers.amqp_properties import forgive_unreadable_properties
from workers.topology import Topology, declare, inspect

log = structlog.get_logger()

TopologyMode = Literal["declare", "passive"]

LIBRARY_ERRORS = (AMQPError, OSError, RuntimeError)  # aiormq raises a bare RuntimeError on a closed connection

# Ready at once where it is not blocked; aiormq has no other way to ask.
_UNBLOCKED_WITHIN_S = 0.02
_VHOST_OPENED = "Connection.OpenOk"
_EXAMPLE = "amqp://USER@HOST:5672/VHOST"


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpTimings:
    """Seconds: how soon trouble is noticed, and how soon it is mended."""

    heartbeat_s: int = 15
    connect_timeout_s: float = 5.0
    call_timeout_s: float = 10.0
    confirm_timeout_s: float = 10.0
    retry_interval_s: float = 1.0
    watchdog_interval_s: float = 5.0


class AmqpConnection:
    """One connection, and what is declared over it; ``passive`` uses what is there and declares nothing."""

    def __init__(
        self, url: str, topology: Topology, mode: TopologyMode, timings: AmqpTimings, name: str, ca_file: str = ""
    ) -> None:
        self._url = _checked_url(url, ca_file)
        self._mode = mode
        self._name = name
        self._connection: RobustConnection | None = None
        self._last_problem = ""
        self._declare_lock = asyncio.Lock()
        self._questions: aio_pika.Channel | None = None
        self._question_turn = asyncio.Lock()
        self.topology = topology
        self.timings = timings
        self.n_declared = 0

    @property
    def connected(self) -> bool:
        """Whether there is a connection at this moment."""
        connection = self._connection
        return connection is not None and not connection.is_closed and connection.connected.is_set()

    @property
    def declares(self) -> bool:
        """Whether the topology is ours to declare."""
        return self._mode == "declare"

    async def start(self, within_s: float, *, prepares: bool = True) -> None:
        """See ``Broker.start``; unless it ``prepares``, the topology is another connection's to declare."""
        forgive_unreadable_properties()
        try:
            async with asyncio.timeout(within_s):
                self._connection = await self._connect_patiently()
        except TimeoutError as error:
            why = f": {self._last_problem}" if self._last_problem else ""
            raise DependencyUnavailable("broker", f"no connection within {within_s:g} s{why}") from error
        try:
            if prepares:
                await self.prepare()
        except BaseException:
            await self.close()
            raise
        self._watch(self._connection)

    async def close(self) -> None:
        """End the connection, and all channels with it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connect_patiently(self) -> RobustConnection:
        while True:
            try:
                return await self._connect()
            except LIBRARY_ERRORS as error:
                _raise_if_refused(error, self._url.path.removeprefix("/") or "/")
                self._last_problem = sentence(error)
                log.warning(LogEvent.BROKER_DISCONNECTED, error=self._last_problem)
            await asyncio.sleep(self.timings.retry_interval_s)

    async def _connect(self) -> RobustConnection:
        url = make_url(self._url, reconnect_interval=self.timings.retry_interval_s, name=self._name)
        if "heartbeat" not in url.query:
            url = url.update_query(heartbeat=self.timings.heartbeat_s)
        connection = RobustConnection(url)
        try:
            await connection.connect(timeout=self.timings.connect_timeout_s)
        except BaseException:
            await connection.close()
            raise
        return connection

    def _watch(self, connection: RobustConnection) -> None:
        log.info(LogEvent.BROKER_CONNECTED)
        connection.reconnect_callbacks.add(lambda _: log.info(LogEvent.BROKER_CONNECTED))
        connection.close_callbacks.add(lambda _, error: self._on_disconnect(error))

    def _on_disconnect(self, error: BaseException | None) -> None:
        if self._connection is not None:
            log.warning(LogEvent.BROKER_DISCONNECTED, error=error and sentence(error))

    async def refuses_messages(self) -> bool:
        """Whether the broker has said that it takes none, for it is short of memory or disk."""
        connection = self._connection
        if connection is None or not self.connected or connection.transport is None:
            return False
        try:
            async with asyncio.timeout(_UNBLOCKED_WITHIN_S):
                await connection.transport.ready()
        except TimeoutError:
            return True
        return False

    # --- channels ---

    async def open_channel(self, *, confirms: bool) -> aio_pika.Channel:
        """A plain channel, once the connection is up; with ``confirms``, what no queue takes is an error there."""
        connection = self._connection
        if connection is None or connection.is_closed:
            raise DependencyUnavailable("broker", "not connected")
        with library_errors():
            async with asyncio.timeout(self.timings.call_timeout_s):
                await connection.ready()
                channel = aio_pika.Channel(connection, publisher_confirms=confirms, on_return_raises=confirms)
                await channel.initialize()
                return channel

    # --- the topology ---

    async def prepare(self) -> None:
        """Declare the topology, or in passive mode ask for it; raises ``ConfigurationError`` where it is refused."""
        # A channel of its own: the broker closes it at the first refusal.
        channel = await self.open_channel(confirms=False)
        try:
            step = declare if self.declares else inspect
            with library_errors():
                await step(channel, self.topology, timeout_s=self.timings.call_timeout_s)
        finally:
            await close_quietly(channel)
        self.n_declared += 1

    async def declare_since(self, n_declared: int) -> None:
        """Declare again, unless somebody else did since the count was ``n_declared``."""
        async with self._declare_lock:
            if self.n_declared == n_declared:
                await self.prepare()

    async def queue(self, name: str) -> spec.Queue.DeclareOk | None:
        """What the broker says of a queue: how many messages wait, how many consumers there are; None: it is gone.

        One channel is kept for these questions, which come every few seconds. aio-pika (10.2) removes the callback of a
        closed channel from a future that aiormq (7) made for this one question, so that each channel that was ever
        opened leaves some 5 kB with its connection.
        """
        async with self._question_turn, self._question_channel() as underlay:
            try:
                return await underlay.queue_declare(name, passive=True, timeout=self.timings.call_timeout_s)
            except ChannelNotFoundEntity:
                # With that answer the broker has closed the channel.
                self._questions = None
                return None

    @asynccontextmanager
    async def _question_channel(self) -> AsyncIterator[UnderlayChannel]:
        """The kept channel; one that a question failed on is not asked again, lest it answer the one before."""
        if self._questions is None or self._questions.is_closed:
            self._questions = await self.open_channel(confirms=False)
        channel = self._questions
        try:
            with library_errors():
                yield await channel.get_underlay_channel()
        except BaseException:
            self._questions = None
            await close_quietly(channel)
            raise

    async def n_consumers(self, queue: str) -> int:
        """How many consumers the broker knows of; none where the queue is gone."""
        told = await self.queue(queue)
        return 0 if told is None else told.consumer_count or 0


def _checked_url(url: str, ca_file: str) -> URL:
    """``url`` with the CAs that an ``amqps://`` broker is trusted by, where those are not the system's.

    Raises ``ConfigurationError``, which never quotes the URL: its parts may be those of a password.
    """
    try:
        parsed = URL(url)
    except ValueError:
        raise ConfigurationError(f"BROKER_URL is not a valid URL, such as {_EXAMPLE}") from None
    if parsed.scheme not in ("amqp", "amqps") or not parsed.host:
        raise ConfigurationError(f"BROKER_URL must be such as {_EXAMPLE}")
    if parsed.query.get("no_verify_ssl", "0") != "0":
        raise ConfigurationError("BROKER_URL has no_verify_ssl: certificates are always verified, see BROKER_CA_FILE")
    return parsed.update_query(cafile=ca_file) if ca_file else parsed


# --- what the library raises ---


@contextmanager
def library_errors() -> Iterator[None]:
    """Turn what aio-pika and aiormq raise into ``DependencyUnavailable``."""
    try:
        yield
    except LIBRARY_ERRORS as error:
        raise DependencyUnavailable("broker", sentence(error)) from error
    except asyncio.CancelledError:
        raise_if_cancelled()
        raise DependencyUnavailable("broker", "the connection was closed") from None


def raise_if_cancelled() -> None:
    """Re-raise the cancellation in hand if it is this task's own.

    aiormq rejects all that waits on a closed connection *with* a ``CancelledError``, although nobody cancelled the
    task that waits.
    """
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise  # noqa: PLE0704 - called from an except block


def sentence(error: BaseException) -> str:
    """What ``error`` says, or at least what it is."""
    return str(error) or type(error).__name__


async def close_quietly(channel: aio_pika.Channel) -> None:
    """Close ``channel``, in whatever state it is."""
    with suppress(DependencyUnavailable), library_errors():
        await channel.close()


def _raise_if_refused(error: BaseException, vhost: str) -> None:
    if untrusted := tls_problem(error, url="BROKER_URL", ca_file="BROKER_CA_FILE"):
        raise ConfigurationError(f"broker: {untrusted}") from error
    if isinstance(error, AuthenticationError | ProbableAuthenticationError):
        raise ConfigurationError("BROKER_URL: the broker refused the user or the password") from error
    if isinstance(error, InvalidFrameError) and _VHOST_OPENED in str(error):
        # aiormq keeps neither the code nor the text of the broker's answer
        raise ConfigurationError(
            f"BROKER_URL: virtual host {vhost!r} is missing on the broker, or this user may not use it"
        ) from error
