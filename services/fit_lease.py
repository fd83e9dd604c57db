"""Lets one process of all fit at a time: a row of the database with an end, renewed by a thread.

A thread, and a blocking connection, since fitting computes for minutes outside of any event loop. Instants are of the
holders' own clocks: a lease is long enough for what these differ by, and what is fitted under a lease that was lost is
stopped by ``ModelRegistry.promote``, which compares.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from uuid import uuid4

import sqlalchemy as sa
import structlog
from sqlalchemy import exc
from sqlalchemy.engine import URL

from core.errors import ConfigurationError, DependencyUnavailable
from core.ports.clock import Clock
from models.log_event import LogEvent
from services.database import own_errors, sync_engine
from services.schema import lease
from services.stored_instants import naive

FIT_LEASE = "fit"
LEASE_S = 60.0

_RENEWALS_PER_LEASE = 3

_log = structlog.get_logger()


@contextmanager
def held_lease(url: URL, clock: Clock, *, name: str = FIT_LEASE, lease_s: float = LEASE_S) -> Iterator[None]:
    """Hold the lease inside the block; a holder that dies lets go after ``lease_s``.

    Raises ``ConfigurationError`` naming who holds it, and ``DependencyUnavailable``.
    """
    engine, holder = sync_engine(url), f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"[-191:]
    row = _Lease(engine, name, holder, clock, timedelta(seconds=lease_s))
    try:
        with own_errors(url.drivername):
            row.take()
        ended = threading.Event()
        renewing = threading.Thread(target=_renew, args=(row, url, ended, lease_s / _RENEWALS_PER_LEASE), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            ended.set()
            renewing.join()
            # Where the database is away the lease ends by itself.
            _told(row.release, url)
    finally:
        engine.dispose()


def _renew(row: "_Lease", url: URL, ended: threading.Event, interval_s: float) -> None:
    while not ended.wait(interval_s):
        _told(row.renew, url)


def _told(step: Callable[[], None], url: URL) -> None:
    try:
        with own_errors(url.drivername):
            step()
    except (DependencyUnavailable, ConfigurationError) as error:
        _log.warning(LogEvent.LEASE_RENEWAL_FAILED, lease=FIT_LEASE, error=str(error))


class _Lease:
    """The row."""

    def __init__(self, engine: sa.Engine, name: str, holder: str, clock: Clock, length: timedelta) -> None:
        self._engine, self._name, self._holder = engine, name, holder
        self._clock, self._length = clock, length

    def take(self) -> None:
        ours = {"holder": self._holder, "held_until": self._now() + self._length}
        free = sa.update(lease).where(lease.c.name == self._name, lease.c.held_until < self._now()).values(ours)
        with self._engine.begin() as connection:
            if connection.execute(free).rowcount:
                return
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(lease).values(name=self._name, **ours))
        except exc.IntegrityError:
            raise ConfigurationError(self._refusal()) from None

    def _refusal(self) -> str:
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(lease).where(lease.c.name == self._name)).one_or_none()
        holder = row.holder.rpartition(":")[0] if row else "another"
        return f"another {self._name} is under way ({holder}): run it again when that one has ended"

    def renew(self) -> None:
        with self._engine.begin() as connection:
            connection.execute(sa.update(lease).where(*self._is_ours()).values(held_until=self._now() + self._length))

    def release(self) -> None:
        with self._engine.begin() as connection:
            connection.execute(sa.delete(lease).where(*self._is_ours()))

    def _is_ours(self) -> tuple[sa.ColumnElement[bool], ...]:
        return lease.c.name == self._name, lease.c.holder == self._holder

    def _now(self) -> datetime:
        return naive(self._clock.now())
