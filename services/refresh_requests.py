"""Refreshes that are asked for, debounced in Redis: one burst of events of a member is one job."""

from collections.abc import Sequence
from typing import cast

from redis.asyncio import Redis

from core.feedback import DueRefresh
from services.redis_client import RedisScript

DUE_KEY = "songs_ai:refresh:due"
BURST_PREFIX = "songs_ai:refresh:burst:"
LIKES_PREFIX = "songs_ai:refresh:likes:"

_LONGEST = 10
"""A burst that does not end is cut off after so many times its quiet time."""


class RedisRefreshRequests:
    """The ``RefreshRequests`` of all workers.

    A refresh is due ``quiet_s`` after the last that asked for it, and ten times that after the first at the latest; one
    that is only to be made where the taste has moved, ``drift_s`` after the first. Who takes one and is not done with
    it within ``lease_s`` is taken for dead.
    """

    def __init__(self, client: Redis, *, quiet_s: float, drift_s: float, lease_s: float = 30.0) -> None:
        self._lease_us = _us(lease_s)
        self.times_us = (_us(quiet_s), _us(_LONGEST * quiet_s), _us(drift_s))
        """Quiet, longest and drift time, as the scripts take them."""
        self._ask = RedisScript(client, "refresh_burst", "refresh_ask")
        self._take = RedisScript(client, "refresh_burst", "refresh_take")
        self._done = RedisScript(client, "refresh_done")

    async def ask(self, member_id: int, item_ids: Sequence[int] = ()) -> bool:
        """See ``RefreshRequests.ask``."""
        return await self._ask(_keys(member_id), [str(member_id), *self.times_us, *map(str, item_ids)]) == 1

    async def take(self, n: int) -> Sequence[DueRefresh]:
        """See ``RefreshRequests.take``."""
        taken = await self._take([DUE_KEY], [n, self._lease_us, BURST_PREFIX, LIKES_PREFIX])
        return [_due(found) for found in cast("list[list[bytes]]", taken)]

    async def done(self, refresh: DueRefresh) -> None:
        """See ``RefreshRequests.done``."""
        await self._done(_keys(refresh.member_id), [str(refresh.member_id), refresh.burst])


def _keys(member_id: int) -> list[str]:
    return [DUE_KEY, f"{BURST_PREFIX}{member_id}", f"{LIKES_PREFIX}{member_id}"]


def _due(found: list[bytes]) -> DueRefresh:
    member, burst, is_sure, *items = found
    return DueRefresh(
        member_id=int(member), burst=burst.decode(), is_sure=is_sure == b"1", item_ids=[int(item) for item in items]
    )


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)
