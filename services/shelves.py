"""What is cached of members, and items taken out of it: what was refused, and what is no longer in the catalogue."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import cast

from redis.asyncio import Redis

from core.errors import DependencyUnavailable
from services.redis_client import RedisScript, redis_errors
from services.result_cache import INDEX_PREFIX, LATEST_PREFIX, RESULT_PREFIX, VIEW_PREFIX, Clean

SWEEP_PREFIX = "songs_ai:sweep:"

# All workers see an item go within seconds of each other; after that the same items may have come and gone again.
_SWEEP_S = 120
_PAGE = 200
_BREATH_S = 0.002


class RedisShelves:
    """The results in Redis; ``clean`` is that of ``RedisResultCache``."""

    def __init__(self, client: Redis, clean: Clean) -> None:
        self._client = client
        self._clean = clean
        self._replace = RedisScript(client, "replace_same")
        self._holding = RedisScript(client, "holding")
        self._holding_members = RedisScript(client, "holding_members")

    async def withdraw(self, item_ids: Mapping[int, frozenset[int]]) -> int:
        """Take items out of every result of each member; how many documents that changed.

        What is written meanwhile stays, and is looked at again. Raises ``DependencyUnavailable``.
        """
        names = [f"{INDEX_PREFIX}{member_id}" for member_id in item_ids]
        told: list[str | bytes | int] = [RESULT_PREFIX, LATEST_PREFIX, VIEW_PREFIX]
        for member_id, own in item_ids.items():
            told += [str(member_id), len(own), *map(str, own)]
        if not names:
            return 0
        found = iter(cast("list[bytes]", await self._holding_members(names, told)))
        pairs = [(int(member), key.decode()) for member, key in zip(found, found, strict=True)]
        return sum([await self._withdraw_from(key, item_ids[member_id]) for member_id, key in pairs])

    async def _withdraw_from(self, key: str, item_ids: frozenset[int]) -> bool:
        while True:
            with redis_errors():
                found = cast("bytes | None", await self._client.get(key))
            cleaned = self._clean(found, item_ids) if found else None
            if found is None or cleaned is None:
                return False
            if await self._replace([key], [found, cleaned]) == 1:
                return True

    async def withdraw_from_all(self, item_ids: frozenset[int]) -> int | None:
        """Take items out of the results of all members; how many documents that changed.

        None where another worker is about to take out the same ones. Redis itself looks which documents name them, some
        hundred at a time and with pauses: nothing waits for long. Raises ``DependencyUnavailable``.
        """
        digest = blake2b(",".join(map(str, sorted(item_ids))).encode(), digest_size=16).hexdigest()
        lease_key = SWEEP_PREFIX + digest
        with redis_errors():
            if not await self._client.set(lease_key, "1", nx=True, ex=_SWEEP_S):
                return None
        try:
            return await self._sweep(item_ids)
        except DependencyUnavailable:
            with suppress(DependencyUnavailable), redis_errors():
                await self._client.delete(lease_key)
            raise

    async def _sweep(self, item_ids: frozenset[int]) -> int:
        n_changed = 0
        for prefix in (LATEST_PREFIX, VIEW_PREFIX, RESULT_PREFIX):
            async for keys in self._pages(prefix):
                for key in await self._keys_holding(keys, item_ids):
                    n_changed += await self._withdraw_from(key.decode(), item_ids)
                await asyncio.sleep(_BREATH_S)
        return n_changed

    async def _pages(self, prefix: str) -> AsyncIterator[Sequence[bytes]]:
        cursor = 0
        while True:
            with redis_errors():
                cursor, keys = await self._client.scan(cursor, match=f"{prefix}*", count=_PAGE)
            if keys:
                yield cast("list[bytes]", keys)
            if cursor == 0:
                return

    async def _keys_holding(self, keys: Sequence[bytes], item_ids: frozenset[int]) -> list[bytes]:
        names = [key.decode() for key in keys]
        return cast("list[bytes]", await self._holding(names, [str(item_id) for item_id in item_ids]))
