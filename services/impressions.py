"""What members were shown, as ``RedisResultCache`` counts it when it saves a result.

In Redis, beside the results that it tells of: it is counted in the script that saves one, so neither without the other,
at no round trip; it ends by itself; and beside results of some ten kilobytes its one or two are little.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import cast
from zoneinfo import ZoneInfo

from redis.asyncio import Redis

from core.ports.clock import Clock
from core.repetition import Shown
from services.redis_client import redis_errors
from services.result_cache import SHOWN_PREFIX

_MEMBERS_AT_ONCE = 200


class RedisImpressions:
    """The ``Impressions``, by days of ``time_zone``."""

    def __init__(self, client: Redis, clock: Clock, *, time_zone: str) -> None:
        self._client = client
        self._clock = clock
        self._time_zone = ZoneInfo(time_zone)

    async def shown(self, member_id: int) -> Mapping[int, Shown]:
        """See ``Impressions.shown``."""
        with redis_errors():
            stored = cast("dict[bytes, bytes]", await self._client.hgetall(f"{SHOWN_PREFIX}{member_id}"))
        today = self._clock.now().astimezone(self._time_zone).date().toordinal()
        found = {int(item): _shown(value, today) for item, value in stored.items()}
        return {item_id: shown for item_id, shown in found.items() if shown.n_days}

    async def shown_to(self, member_ids: Sequence[int]) -> Mapping[int, frozenset[int]]:
        """The ids of what each was shown, reacted to since or not; who was shown nothing is left out.

        Raises ``DependencyUnavailable``.
        """
        found: dict[int, frozenset[int]] = {}
        for start in range(0, len(member_ids), _MEMBERS_AT_ONCE):
            part = member_ids[start : start + _MEMBERS_AT_ONCE]
            with redis_errors():
                async with self._client.pipeline(transaction=False) as pipe:
                    for member_id in part:
                        pipe.hkeys(f"{SHOWN_PREFIX}{member_id}")
                    stored = cast("list[list[bytes]]", await pipe.execute())
            found |= {member: frozenset(map(int, ids)) for member, ids in zip(part, stored, strict=True) if ids}
        return found


def _shown(value: bytes, today: int) -> Shown:
    """Of days before today alone: within a day a member's list is not to change for having been shown."""
    n_days, last = map(int, value.split(b":"))
    if last >= today:
        return Shown(max(0, n_days - 1), timedelta(days=1))
    return Shown(n_days, timedelta(days=today - last))
