"""Makes and changes the worker's own tables, by Alembic. The backend's tables are never touched.

Two workers may migrate at once: one waits for the other, and finds nothing left to do.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path

import sqlalchemy as sa
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import URL

from core.errors import DependencyUnavailable
from models.log_event import LogEvent
from services.database import connecting, own_errors, sync_engine
from services.schema import VERSION_TABLE

_SCRIPTS = Path(__file__).parents[1] / "migrations"
_LOCK_WAIT_S = 60

_log = structlog.get_logger()


def upgrade(url: URL | str, revision: str = "head") -> None:
    """Bring our tables forward to ``revision``; blocking. ``url`` is as in the settings, or ``Database.sync_url``.

    Raises ``DependencyUnavailable`` where the database does not answer or another migration takes too long, and
    ``ConfigurationError`` for a URL that is none.
    """
    with _locked_connection(url) as connection:
        before = _revision(connection)
        command.upgrade(_alembic(connection), revision)
        _log.info(LogEvent.MIGRATIONS_APPLIED, before=before, after=_revision(connection))


def downgrade(url: URL | str, revision: str = "base") -> None:
    """Take our tables back to ``revision``, with the data that it does not know; blocking. Raises as ``upgrade``."""
    with _locked_connection(url) as connection:
        before = _revision(connection)
        command.downgrade(_alembic(connection), revision)
        _log.info(LogEvent.MIGRATIONS_APPLIED, before=before, after=_revision(connection))


def current(url: URL | str) -> str | None:
    """The revision of our tables, or None where there are none; blocking. Raises as ``upgrade``."""
    with _connection(url) as connection:
        return _revision(connection)


def _alembic(connection: sa.Connection) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


@contextmanager
def _connection(url: URL | str) -> Iterator[sa.Connection]:
    engine = sync_engine(url, timeout_s=_LOCK_WAIT_S)
    name = "mysql" if engine.dialect.name == "mysql" else "sqlite"
    try:
        with own_errors(name), ExitStack() as stack:
            with connecting(name):
                connection = stack.enter_context(engine.connect())
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _locked_connection(url: URL | str) -> Iterator[sa.Connection]:
    """A connection inside a transaction, alone among all migrations of that database."""
    with _connection(url) as connection:
        lock = _mysql_lock if connection.dialect.name == "mysql" else _sqlite_lock
        with lock(connection):
            yield connection
            connection.commit()


@contextmanager
def _mysql_lock(connection: sa.Connection) -> Iterator[None]:
    # The names of these locks are the server's, at most 64 characters long, and outlive the commits of DDL.
    name = "songs_ai_migrate_" + sha256((connection.engine.url.database or "").encode()).hexdigest()[:16]
    if connection.scalar(sa.select(sa.func.get_lock(name, _LOCK_WAIT_S))) != 1:
        raise DependencyUnavailable("mysql", "another migration is running and does not end")
    try:
        yield
    finally:
        connection.scalar(sa.select(sa.func.release_lock(name)))


@contextmanager
def _sqlite_lock(connection: sa.Connection) -> Iterator[None]:
    # SQLite's DDL is transactional: all of the migration happens, or nothing.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    yield
