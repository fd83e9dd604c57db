"""What batches take of the daily ceiling that ``services/call_budgets.py`` keeps for single calls.

A batch runs for hours, so what it reserves stands in Redis by itself, and not in the list of calls under way.
"""

from zoneinfo import ZoneInfo

from redis.asyncio import Redis

from core.ports.clock import Clock
from services.call_budgets import nano_usd, spend_key, usd_of
from services.redis_client import RedisScript, redis_errors

BATCH_PREFIX = "songs_ai:llm_spend_batch:"

# A provider may take a day, and a run may be resumed days later.
_TTL_S = 14 * 86_400


class RedisBatchPurse:
    """A ``BatchPurse``; ``daily_usd`` 0 is no ceiling. Spends on the day of ``time_zone`` on which it is reserved."""

    def __init__(self, client: Redis, clock: Clock, *, daily_usd: float, time_zone: str) -> None:
        self._client = client
        self._clock = clock
        self._daily_usd = daily_usd
        self._zone = ZoneInfo(time_zone)
        self._reserve = RedisScript(client, "day_spend", "batch_reserve")
        self._settle = RedisScript(client, "day_spend", "batch_settle")

    async def left_usd(self) -> float | None:
        """See ``BatchPurse.left_usd``."""
        if not self._daily_usd:
            return None
        with redis_errors():
            spent = await self._client.get(self._day_key())
        return max(0.0, self._daily_usd - usd_of(int(spent or 0)))

    async def reserve(self, key: str, max_usd: float) -> bool:
        """See ``BatchPurse.reserve``."""
        keys = [BATCH_PREFIX + key, self._day_key()]
        return bool(await self._reserve(keys, [nano_usd(max_usd), nano_usd(self._daily_usd), _TTL_S]))

    async def settle(self, key: str, usd: float) -> None:
        """See ``BatchPurse.settle``. Where Redis has lost the reservation, today pays."""
        await self._settle([BATCH_PREFIX + key, self._day_key()], [nano_usd(usd), _TTL_S])

    def _day_key(self) -> str:
        return spend_key(self._clock.now().astimezone(self._zone))
