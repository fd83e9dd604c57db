"""How full Redis is: at its limit it refuses every write, or throws results away, whichever its policy says."""

from dataclasses import dataclass

from redis import exceptions
from redis.asyncio import Redis

from core.errors import DependencyUnavailable
from services.redis_client import redis_errors

NEARLY_FULL = 0.85
_KEEPS_ALL = "noeviction"
_MB = 1_048_576


@dataclass(frozen=True, slots=True)
class RedisMemory:
    """In bytes; ``limit`` is 0 where ``maxmemory`` sets none. ``policy`` is what happens at the limit."""

    used: int
    limit: int
    policy: str

    def verdict(self) -> str | None:
        """None where all is well, else a sentence that warns; raises ``DependencyUnavailable`` where it is full."""
        if not self.limit:
            return None
        if self.policy != _KEEPS_ALL:
            return f"maxmemory-policy {self.policy} throws away what members and pollers have yet to read"
        if self.used > self.limit:
            raise DependencyUnavailable("redis", f"its memory is full ({self}): it refuses every write")
        if self.used > NEARLY_FULL * self.limit:
            return f"its memory is nearly full ({self}): then it refuses every write"
        return None

    def __str__(self) -> str:
        return f"{self.used / _MB:,.0f} of {self.limit / _MB:,.0f} MB, its maxmemory"


async def redis_memory(client: Redis) -> RedisMemory | None:
    """What Redis says of itself, or None where we may not ask; raises ``DependencyUnavailable``.

    Buffers of replicas and of the append-only file do not count against the limit (``freeMemoryGetNotCountedMemory`` of
    Redis' evict.c).
    """
    with redis_errors():
        try:
            found = await client.info("memory")
        except exceptions.ResponseError:
            return None  # as for ``appendonly_enabled``
    return RedisMemory(
        used=int(found["used_memory"]) - int(found.get("mem_not_counted_for_evict", 0)),
        limit=int(found["maxmemory"]),
        policy=str(found["maxmemory_policy"]),
    )
