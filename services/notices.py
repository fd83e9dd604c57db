"""Notices to those who run a site: few, tried again, and in nobody's way.

Addresses hold secrets (Slack's are nothing else), so that no log line and no error quotes them.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog
from redis.asyncio import Redis

from core.errors import DependencyUnavailable
from core.ports.clock import Clock
from models.log_event import LogEvent
from models.notice import Notice, NoticeKind
from services.redis_client import redis_errors

NOTICE_PREFIX = "songs_ai:notice:"

_N_TRIES = 4
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0
_GRACE_S = 5.0

_log = structlog.get_logger()


class NotSent(Exception):
    """A way to send failed; ``wait_s`` is when to try again as the other side says, None: as we like.

    ``is_final``: another try would fail too.
    """

    def __init__(self, problem: str, *, wait_s: float | None = None, is_final: bool = False) -> None:
        super().__init__(problem)
        self.wait_s, self.is_final = wait_s, is_final


class Channel(Protocol):
    """One way to send."""

    name: str

    async def send(self, notice: Notice) -> None:
        """Try once; raises ``NotSent``."""


class OutboundNotices:
    """``Notices`` over ``channels``. Of each kind one is sent in ``interval_s``, by all workers together.

    Without Redis nobody knows what others sent, and each process counts for itself.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        redis: Redis,
        clock: Clock,
        *,
        interval_s: float,
        first_wait_s: float = _FIRST_WAIT_S,
    ) -> None:
        self._channels, self._redis, self._clock = channels, redis, clock
        self._interval_s, self._first_wait_s = interval_s, first_wait_s
        self._told_at_s: dict[NoticeKind, float] = {}
        self._sending: set[asyncio.Task[None]] = set()

    async def tell(self, notice: Notice) -> None:
        """See ``Notices.tell``."""
        if self._is_due(notice.kind):
            await self._tell_where_due(notice)

    def tell_soon(self, notice: Notice) -> None:
        """See ``Notices.tell_soon``."""
        if self._is_due(notice.kind):
            task = asyncio.create_task(self._tell_where_due(notice))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def aclose(self) -> None:
        """Wait a moment for what is being sent, and give the rest up."""
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _tell_where_due(self, notice: Notice) -> None:
        if await self._may_send(notice.kind):
            await self._send(notice)

    def _is_due(self, kind: NoticeKind) -> bool:
        """Whether this process has told nothing of the kind lately; from now on it has."""
        now_s, last_s = self._clock.monotonic_s(), self._told_at_s.get(kind)
        if not self._channels or (last_s is not None and now_s - last_s < self._interval_s):
            return False
        self._told_at_s[kind] = now_s
        return True

    async def _may_send(self, kind: NoticeKind) -> bool:
        if not self._interval_s:
            return True
        try:
            with redis_errors():
                ours = await self._redis.set(
                    NOTICE_PREFIX + kind, 1, nx=True, px=max(1, round(self._interval_s * 1000))
                )
        except DependencyUnavailable:
            return True
        return bool(ours)

    async def _send(self, notice: Notice) -> None:
        await asyncio.gather(*(self._send_by(channel, notice) for channel in self._channels))

    async def _send_by(self, channel: Channel, notice: Notice) -> None:
        wait_s = self._first_wait_s
        for n_left in range(_N_TRIES - 1, -1, -1):
            try:
                await channel.send(notice)
            except NotSent as error:
                if error.is_final or not n_left:
                    _log.warning(LogEvent.NOTICE_NOT_SENT, kind=notice.kind, channel=channel.name, error=str(error))
                    return
                await asyncio.sleep(min(wait_s if error.wait_s is None else error.wait_s, _LONGEST_WAIT_S))
                wait_s *= 2
            else:
                _log.info(LogEvent.NOTICE_SENT, kind=notice.kind, channel=channel.name)
                return
