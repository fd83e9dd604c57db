"""Opens the database, and says in our own errors when it is not to be had.

URLs are as people write them, ``mysql://...`` or ``sqlite:///...``; the drivers are ours to choose: asyncmy and
aiosqlite for the worker, PyMySQL and sqlite3 for migrations and offline steps.
"""

import asyncio
import math
import sqlite3
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import aiosqlite
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import URL, Dialect, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_, greenlet_spawn

from core.certificates import tls_problem
from core.errors import ConfigurationError, DependencyUnavailable, SongsAIError

_ASYNC_DRIVERS = {"mysql": "mysql+asyncmy", "sqlite": "sqlite+aiosqlite"}
_SYNC_DRIVERS = {"mysql": "mysql+pymysql", "sqlite": "sqlite+pysqlite"}
_MYSQL_SCHEMES = ("mysql", "mariadb")
_MYSQL_OPTIONS = frozenset(
    {"charset", "unix_socket", "ssl", "ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_cipher", "ssl_check_hostname"}
)
_ON, _OFF = ("true", "True", "1"), ("false", "False", "0")
_EXAMPLES = "mysql://USER@HOST:3306/DATABASE or sqlite:///FILE"

# Below the shortest wait_timeout that proxies and cloud servers commonly set.
_RECYCLE_S = 240

# MySQL's error numbers (the reference manual's "Server Error Message Reference"): the schema is not what we were told.
_NO_SUCH_TABLE, _NO_SUCH_COLUMN = 1146, 1054
_MISSING_IN_SQLITE = ("no such table", "no such column")
_NO_SQLITE_FILE = ("file is not a database", "database disk image is malformed")

# What asyncmy raises, bare, over a reply that it cannot read. TypeError and KeyError are not among them: those are over
# parameters, and so ours.
_UNREADABLE = (ArithmeticError, EOFError, IndexError, RuntimeError, ValueError, struct.error)


def parse_url(url: str, *, ca_file: str = "") -> URL:
    """``url`` checked, with the scheme ``mysql`` or ``sqlite`` and no driver; its repr hides the password.

    ``ca_file`` turns TLS on for MySQL, and says by which CAs the server is trusted; so does ``ssl_ca`` in the URL.
    Raises ``ConfigurationError``, which never quotes the URL: its parts may be those of a password.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (exc.ArgumentError, ValueError):
        raise ConfigurationError(f"DATABASE_URL is not a valid URL, such as {_EXAMPLES}") from None
    if backend in _MYSQL_SCHEMES:
        return _checked_mysql(parsed.update_query_dict({"ssl_ca": ca_file}) if ca_file else parsed)
    if backend == "sqlite":
        return parsed.set(drivername="sqlite")
    raise ConfigurationError(f"DATABASE_URL must be such as {_EXAMPLES}")


def _checked_mysql(url: URL) -> URL:
    if not url.database:
        raise ConfigurationError("DATABASE_URL names no database; it must be such as " + _EXAMPLES)
    unknown = sorted(set(url.query) - _MYSQL_OPTIONS)
    if unknown:
        known = ", ".join(sorted(_MYSQL_OPTIONS))
        raise ConfigurationError(f"DATABASE_URL has an option {unknown[0]!r} that is not one of {known}")
    if url.query.get("ssl", "true") not in (*_ON, *_OFF):
        raise ConfigurationError("DATABASE_URL has an option ssl= that is neither true nor false")
    if _is_off(url, "ssl_check_hostname") and not {"ssl_ca", "ssl_capath"} & set(url.query):
        raise ConfigurationError(
            "DATABASE_URL has ssl_check_hostname=false, which needs a DATABASE_CA_FILE: anybody can have a certificate "
            "of the system's CAs"
        )
    return url.set(drivername="mysql")


def sync_engine(url: URL | str, *, timeout_s: float = 30.0) -> sa.Engine:
    """A blocking engine for migrations and offline steps; ``timeout_s`` bounds connecting and waiting for locks."""
    parsed = parse_url(url) if isinstance(url, str) else url
    connect_args = _connect_args(parsed, timeout_s)
    if parsed.drivername == "mysql" and not _asks_for_tls(parsed):
        # As asyncmy does; PyMySQL would try TLS first, and read the system's certificates at every connect.
        connect_args["ssl_disabled"] = True
    return sa.create_engine(
        _with_driver(parsed, _SYNC_DRIVERS),
        connect_args=connect_args,
        hide_parameters=True,
    )


def _asks_for_tls(url: URL) -> bool:
    return url.query.get("ssl") in _ON or any(option.startswith("ssl_") for option in url.query)


def _is_off(url: URL, option: str) -> bool:
    return url.query.get(option) in _OFF


def _tls_context(url: URL) -> ssl.SSLContext:
    """One that verifies the server's certificate and, unless ``url`` says otherwise, its name."""
    option = {name: str(value) for name, value in url.query.items()}
    try:
        context = ssl.create_default_context(cafile=option.get("ssl_ca"), capath=option.get("ssl_capath"))
        if "ssl_cert" in option:
            context.load_cert_chain(option["ssl_cert"], option.get("ssl_key"))
        if "ssl_cipher" in option:
            context.set_ciphers(option["ssl_cipher"])
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"DATABASE_CA_FILE, or an ssl option of DATABASE_URL: {error}") from error
    context.check_hostname = not _is_off(url, "ssl_check_hostname")
    # The CA that MySQL makes for itself lacks what Python 3.13 insists on; PyMySQL does so too.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _with_driver(url: URL, drivers: dict[str, str]) -> URL:
    return url.set(drivername=drivers[url.drivername]).difference_update_query(
        [name for name in url.query if name == "charset" or name.startswith("ssl")]
    )


def _connect_args(url: URL, timeout_s: float) -> dict[str, Any]:
    if url.drivername == "sqlite":
        return {"timeout": timeout_s}
    whole_s = math.ceil(timeout_s)
    arguments: dict[str, Any] = {
        "charset": "utf8mb4",
        "connect_timeout": whole_s,
        "binary_prefix": True,
        "init_command": f"SET time_zone = '+00:00', innodb_lock_wait_timeout = {whole_s}",
    }
    if _asks_for_tls(url):
        # Not the drivers' own: without a CA they encrypt for whoever answers.
        arguments["ssl"] = _tls_context(url)
    return arguments


def _async_engine(url: URL, *, pool_size: int, timeout_s: float) -> AsyncEngine:
    return create_async_engine(
        _with_driver(url, _ASYNC_DRIVERS),
        connect_args=_connect_args(url, timeout_s),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout_s,
        pool_pre_ping=True,
        pool_recycle=_RECYCLE_S,
        # A read is one statement: without this each would be followed by a ROLLBACK, a round trip of its own.
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        hide_parameters=True,
    )


def _connect_or_close(
    dialect: Dialect, _record: object, arguments: list[Any], options: dict[str, Any]
) -> DBAPIConnection:
    """For SQLAlchemy's ``do_connect``: aiosqlite leaves open what it opens for a task that is cancelled meanwhile."""
    return await_(_connected_or_closed(dialect, arguments, options | {"async_creator_fn": _open_sqlite}))


async def _open_sqlite(path: str, **options: Any) -> aiosqlite.Connection:  # noqa: ANN401 - sqlite3's
    """For SQLAlchemy's ``async_creator_fn``."""
    connection = aiosqlite.connect(path, **options)
    thread = connection._thread  # as SQLAlchemy has it
    thread.daemon = True
    try:
        return await connection
    except sqlite3.Error:
        # aiosqlite tells its thread to end and does not wait; by the time that it answers, the loop may be closed.
        await asyncio.to_thread(thread.join)
        raise


async def _connected_or_closed(dialect: Dialect, arguments: list[Any], options: dict[str, Any]) -> DBAPIConnection:
    opening = asyncio.create_task(greenlet_spawn(dialect.connect, *arguments, **options))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        # A callback, so that a second cancellation changes nothing. SQLite opens a file without waiting for anyone.
        opening.add_done_callback(partial(_close_unwanted, dialect))
        await asyncio.wait([opening])
        raise


def _close_unwanted(dialect: Dialect, opening: asyncio.Task[DBAPIConnection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        dialect.do_terminate(opening.result())


def _tell_unreadable_replies(context: sa.engine.ExceptionContext) -> DependencyUnavailable | None:
    """For SQLAlchemy's ``handle_error``, which sees what the driver raises and nothing that callers do."""
    error = context.original_exception
    if not isinstance(error, _UNREADABLE) or isinstance(error, UnicodeEncodeError):
        return None
    # Where the next reply begins on this connection nobody knows.
    context.is_disconnect = True
    return _unreadable("mysql", error)


def _unreadable(dependency: str, error: Exception) -> DependencyUnavailable:
    # Not in the driver's words, which may quote whatever bytes it tripped over.
    return DependencyUnavailable(dependency, f"no answer such as a database gives ({type(error).__name__})")


class Database:
    """A pool of connections to MySQL, MariaDB or SQLite; it connects when first used.

    Everything that goes wrong under ``connect`` and ``begin`` comes out as ``DependencyUnavailable`` (no connection, no
    answer in time, an answer that is none, a deadlock, a lock held too long) or ``ConfigurationError`` (a table or
    column is not there); what is left is a bug and comes out as it is. No message holds a password or a parameter.
    """

    def __init__(self, url: str, *, pool_size: int = 10, timeout_s: float = 5.0, ca_file: str = "") -> None:
        """``timeout_s`` bounds one round trip, the wait for a connection of the pool included.

        ``ca_file`` is that of ``parse_url``.
        """
        self._url = parse_url(url, ca_file=ca_file)
        self._memory: sqlite3.Connection | None = None
        if self._url.drivername == "sqlite" and self._url.database in (None, "", ":memory:"):
            self._url, self._memory = _open_memory()
        self._timeout_s = timeout_s
        self._engine = _async_engine(self._url, pool_size=pool_size, timeout_s=timeout_s)
        if self.name == "mysql":
            sa.event.listen(self._engine.sync_engine, "handle_error", _tell_unreadable_replies)
        else:
            sa.event.listen(self._engine.sync_engine, "do_connect", _connect_or_close)

    @property
    def name(self) -> str:
        """``mysql`` or ``sqlite``: what errors and health reports call it."""
        return self._url.drivername

    @property
    def sync_url(self) -> URL:
        """For ``sync_engine`` and migrations: the same database, even where it is in memory."""
        return self._url

    def watched_by(self, watch: Callable[[sa.Engine], None]) -> None:
        """Let ``watch`` listen to what is executed."""
        watch(self._engine.sync_engine)

    @asynccontextmanager
    async def connect(self, *, n_round_trips: int = 1) -> AsyncIterator[AsyncConnection]:
        """A connection in autocommit, for reads; everything under it may take ``n_round_trips`` times ``timeout_s``."""
        with own_errors(self.name):
            async with asyncio.timeout(n_round_trips * self._timeout_s), AsyncExitStack() as stack:
                with connecting(self.name):
                    connection = await stack.enter_async_context(self._engine.connect())
                yield connection

    @asynccontextmanager
    async def begin(self, *, n_round_trips: int = 3) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction that commits at the end, or is rolled back by an error."""
        async with self.connect(n_round_trips=n_round_trips) as connection:
            level = "REPEATABLE READ" if self.name == "mysql" else "SERIALIZABLE"
            # SQLAlchemy hands this statement to the driver itself, and lets its errors through as they are.
            with connecting(self.name):
                await connection.execution_options(isolation_level=level)
            async with connection.begin():
                if self.name == "sqlite":
                    # Python's sqlite3 begins no transaction before the first write: what was read until then could be
                    # another's past by the time it is written back.
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection

    async def ping(self) -> None:
        """Return if the database answers."""
        async with self.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))

    async def close(self) -> None:
        """Close all connections; a database in memory is gone with them."""
        await self._engine.dispose()
        if self._memory:
            self._memory.close()


@asynccontextmanager
async def open_database(url: str, *, pool_size: int, timeout_s: float, ca_file: str = "") -> AsyncIterator[Database]:
    """A ``Database`` that is closed at the end."""
    database = Database(url, pool_size=pool_size, timeout_s=timeout_s, ca_file=ca_file)
    try:
        yield database
    finally:
        await database.close()


def _open_memory() -> tuple[URL, sqlite3.Connection]:
    """A database in this process's memory, and the connection that keeps it there.

    SQLite's ``memdb`` VFS gives it a name that many connections can open, with locks as a file has them
    (https://sqlite.org/src/file/src/memdb.c). One shared connection would mix the transactions of all tasks, and lose
    the data when a task is cancelled in the middle of a statement.
    """
    name = f"file:/songs-ai-{uuid4().hex}"
    keeper = sqlite3.connect(f"{name}?vfs=memdb", uri=True, check_same_thread=False)
    return URL.create("sqlite", database=name, query={"vfs": "memdb", "uri": "true"}), keeper


@contextmanager
def own_errors(dependency: str) -> Iterator[None]:
    """Raise SQLAlchemy's and the driver's errors as ours; see ``Database``."""
    try:
        yield
    except exc.DBAPIError as error:
        cause = _cause(dependency, error)
        if cause is None:
            raise
        raise cause from error
    except (OSError, exc.TimeoutError) as error:
        untrusted = tls_problem(error, url="DATABASE_URL", ca_file="DATABASE_CA_FILE")
        raise DependencyUnavailable(dependency, untrusted or str(error) or "no answer in time") from error


@contextmanager
def connecting(dependency: str) -> Iterator[None]:
    """Raise whatever stops a connection from being had as ours; goes within ``own_errors``, around that alone.

    Where a proxy accepts and hangs up, or something else listens there, the drivers raise RuntimeError, IndexError and
    many more. None of them is a bug of ours: the same job may succeed later.
    """
    try:
        yield
    except exc.DBAPIError as error:
        raise _cause(dependency, error) or DependencyUnavailable(dependency, _driver_words(error)[1]) from error
    except (OSError, exc.TimeoutError):
        raise
    except Exception as error:
        raise _unreadable(dependency, error) from error


def _cause(dependency: str, error: exc.DBAPIError) -> SongsAIError | None:
    code, text = _driver_words(error)
    if untrusted := tls_problem(error, url="DATABASE_URL", ca_file="DATABASE_CA_FILE"):
        return DependencyUnavailable(dependency, untrusted)
    if code in (_NO_SUCH_TABLE, _NO_SUCH_COLUMN) or text.startswith(_MISSING_IN_SQLITE):
        hint = "; run `python main.py migrate`" if "songs_ai_" in text else ""
        return ConfigurationError(f"{dependency}: {text}{hint}")
    if text.startswith(_NO_SQLITE_FILE):
        return ConfigurationError(f"{dependency}: {text}: DATABASE_URL must name another, or one that is not there")
    if error.connection_invalidated or isinstance(error, exc.OperationalError | exc.InterfaceError | exc.InternalError):
        return DependencyUnavailable(dependency, text)
    return None


def _driver_words(error: exc.DBAPIError) -> tuple[int | None, str]:
    """MySQL's error number, where there is one, and what the driver said: no SQL, no parameters."""
    arguments = error.orig.args if error.orig else ()
    code = arguments[0] if arguments and isinstance(arguments[0], int) else None
    return code, str(arguments[-1] if arguments else error.orig)
