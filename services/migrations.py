"""Makes and changes the worker's own tables, by Alembic. The backend's tables are never touched.

Two workers may migrate at once: one waits for the other, and finds nothing left to do.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from hashlib import sha256
from itertools import count
from pathlib import Path

import sqlalchemy as sa
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext, MigrationInfo
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import URL

from core.errors import ConfigurationError, DependencyUnavailable
from models.log_event import LogEvent
from services.database import connecting, own_errors, sync_engine
from services.schema import OWN_PREFIX, VERSION_TABLE

_SCRIPTS = Path(__file__).parents[1] / "migrations"
_LOCK_WAIT_S = 60

_log = structlog.get_logger()

OnStep = Callable[[str, int, int], None]
"""Called after each step with its revision, how many steps are done, and how many there are."""


def _untold(_revision: str, _done: int, _total: int) -> None:
    """Nobody waits to see how far it is."""


def upgrade(url: URL | str, revision: str = "head", *, on_step: OnStep = _untold) -> None:
    """Bring our tables forward to ``revision``; blocking. ``url`` is as in the settings, or ``Database.sync_url``.

    Tables that a newer version of this program made are left as they are.
    Raises ``DependencyUnavailable`` where the database does not answer or another migration takes too long, and
    ``ConfigurationError`` for a URL that is none.
    """
    with _locked_connection(url) as connection, _told_errors():
        before = _revision(connection)
        if not _is_known(connection, before):
            # A version was taken back, its schema not, or not yet: what a version adds, the one before can live with.
            _log.warning(LogEvent.NEWER_SCHEMA_FOUND, revision=before)
            return
        command.upgrade(_telling_alembic(connection, revision, before or "base", on_step), revision)
        _log.info(LogEvent.MIGRATIONS_APPLIED, before=before, after=_revision(connection))


def downgrade(url: URL | str, revision: str = "base", *, lose_data: bool = True, on_step: OnStep = _untold) -> None:
    """Take our tables back to ``revision`` (``-1``: one step); blocking. Raises as ``upgrade``.

    What older tables have no place for is lost. Without ``lose_data`` nothing is done where that would be anything:
    ``ConfigurationError`` names it.
    """
    with _locked_connection(url) as connection, _told_errors():
        before = _revision(connection)
        if not _is_known(connection, before):
            raise ConfigurationError(
                f"the tables are of revision {before}, which this version does not know: go back with the one that does"
            )
        if not lose_data and (lost := _lost(connection, revision)):
            raise ConfigurationError(
                f"going back from {before} would lose what is in {', '.join(lost)}: nothing was changed."
                " Keep a copy of it, and say --lose-data"
            )
        command.downgrade(_telling_alembic(connection, before, revision, on_step), revision)
        _log.info(LogEvent.MIGRATIONS_APPLIED, before=before, after=_revision(connection))


def current(url: URL | str) -> str | None:
    """The revision of our tables, or None where there are none; blocking. Raises as ``upgrade``."""
    with _connection(url) as connection:
        return _revision(connection)


def _is_known(connection: sa.Connection, revision: str | None) -> bool:
    scripts = ScriptDirectory.from_config(_alembic(connection))
    return revision is None or revision in {each.revision for each in scripts.walk_revisions()}


@contextmanager
def _told_errors() -> Iterator[None]:
    """What Alembic has to say of a revision that there is not is a sentence for the user."""
    try:
        yield
    except CommandError as error:
        raise ConfigurationError(
            f"migrations: {error}; --revision takes base, head or a name of migrations/versions, such as 0009, and "
            "--down goes back from one that is there"
        ) from error


def _lost(connection: sa.Connection, revision: str) -> list[str]:
    """Tables and columns that ``revision`` does not have and that hold something, with the number of their rows.

    What it has is seen from a database in memory that is taken the same way.
    """
    now = _columns(connection)
    with _connection("sqlite://") as trial:
        command.upgrade(_alembic(trial), _revision(connection) or "base")
        command.downgrade(_alembic(trial), revision)
        then = _columns(trial)
    gone: list[tuple[str, str | None]] = [(table, None) for table in now if table not in then]
    gone += [(table, name) for table in now if table in then for name in now[table] if name not in then[table]]
    counted = [(table, name, connection.scalar(_count(table, name))) for table, name in gone]
    return [f"{table}.{name} ({n:,} rows)" if name else f"{table} ({n:,} rows)" for table, name, n in counted if n]


def _columns(connection: sa.Connection) -> dict[str, list[str]]:
    """The names of the columns of each table that holds data of ours."""
    inspector = sa.inspect(connection)
    names = [name for name in inspector.get_table_names() if name.startswith(OWN_PREFIX) and name != VERSION_TABLE]
    return {name: [column["name"] for column in inspector.get_columns(name)] for name in names}


def _count(table: str, column: str | None) -> sa.Select[int]:
    """How many rows a table has, or how many with something in that column."""
    counting = sa.select(sa.func.count()).select_from(sa.table(table))
    return counting if column is None else counting.where(sa.column(column).is_not(None))


def _alembic(connection: sa.Connection) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config


def _telling_alembic(connection: sa.Connection, upper: str | None, lower: str, on_step: OnStep) -> Config:
    """One that tells of each step between two revisions, which are as Alembic takes them."""
    config = _alembic(connection)
    done = count(1)

    @cache
    def n_steps() -> int:
        # At the first step, when Alembic has accepted both.
        scripts = ScriptDirectory.from_config(config)
        return sum(1 for _ in scripts.iterate_revisions(upper, lower, select_for_downgrade=lower.startswith("-")))

    def tell(*, step: MigrationInfo, **_: object) -> None:
        on_step(str(step.up_revision_id), next(done), n_steps())

    config.attributes["on_step"] = tell
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
