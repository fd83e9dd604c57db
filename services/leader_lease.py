"""Who of all workers starts scheduled tasks: a lease in Redis with a fencing number.

The lease alone is not safe: a leader that was paused for longer than it does not know that another leads (M. Kleppmann,
"How to do distributed locking", 2016). So each term has a number, and ``services/task_runs.py`` refuses lower ones.
"""

import secrets
from typing import cast

from redis.asyncio import Redis

from services.redis_client import RedisScript

LEASE_KEY = "songs_ai:leader"
FENCE_KEY = "songs_ai:leader_fence"


class RedisLeaderLease:
    """A ``LeaderLease``, free ``lease_s`` after its holder's last word. ``group`` tells sites of one Redis apart."""

    def __init__(self, client: Redis, *, lease_s: float, group: str) -> None:
        self._keys = [f"{LEASE_KEY}:{group}", f"{FENCE_KEY}:{group}"]
        self._lease_ms = max(1, round(lease_s * 1000))
        self._token = secrets.token_hex(8)
        self._hold = RedisScript(client, "leader_hold")
        self._release = RedisScript(client, "lease_release")

    async def hold(self, *, above: int) -> int | None:
        """See ``LeaderLease.hold``."""
        return cast(int, await self._hold(self._keys, [self._token, self._lease_ms, above])) or None

    async def let_go(self) -> None:
        """See ``LeaderLease.let_go``."""
        await self._release(self._keys[:1], [self._token])
