"""What events change at once, in Redis: what was shown and refused, what is cached, and which refreshes are due."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Protocol, cast

from redis.asyncio import Redis

from core.feedback import TakenIn, happened_at, refused_ids
from models.event import Event, EventType
from services.redis_client import RedisScript
from services.refresh_requests import BURST_PREFIX, DUE_KEY, LIKES_PREFIX, RedisRefreshRequests
from services.result_cache import FORGOTTEN_PREFIX, REFUSED_PREFIX, SHOWN_PREFIX, sortable_at

_OF_A_MEMBER = (SHOWN_PREFIX, REFUSED_PREFIX, BURST_PREFIX, LIKES_PREFIX, FORGOTTEN_PREFIX)


class Shelves(Protocol):
    """What is cached of members."""

    async def withdraw(self, item_ids: Mapping[int, frozenset[int]]) -> int:
        """Take items out of every result of each member; how many documents that changed."""


class RedisFeedback:
    """The ``Feedback``: one script for all events of a batch.

    What a member refuses is kept for ``refused_ttl_s``, longer than a job takes: one that read their history before is
    cleaned of it when it is saved.
    """

    def __init__(self, client: Redis, shelves: Shelves, requests: RedisRefreshRequests, *, refused_ttl_s: int) -> None:
        self._feedback = RedisScript(client, "refresh_burst", "feedback")
        self._shelves = shelves
        self._times_us = requests.times_us
        self._refused_ttl_s = refused_ttl_s

    async def take_in(self, events: Sequence[Event], *, arrived_at: datetime) -> TakenIn:
        """See ``Feedback.take_in``."""
        by_member: defaultdict[int, list[Event]] = defaultdict(list)
        for event in events:
            by_member[event.member_id].append(event)
        if not by_member:
            return TakenIn()
        keys = [DUE_KEY]
        arguments: list[str | int] = [self._refused_ttl_s, *self._times_us]
        for member_id, own in by_member.items():
            keys += [f"{prefix}{member_id}" for prefix in _OF_A_MEMBER]
            arguments += [str(member_id), len(own), *(part for event in own for part in _told(event, arrived_at))]
        told = iter(cast("list[bytes]", await self._feedback(keys, arguments)))
        taken = _taken_in(by_member, told)
        # After the script: a result that is saved from here on is cleaned by whoever saves it.
        refused = {member_id: refused_ids(own) for member_id, own in by_member.items()}
        await self._shelves.withdraw({member_id: items for member_id, items in refused.items() if items})
        return taken


def _told(event: Event, arrived_at: datetime) -> tuple[str, str, str]:
    item = "" if event.item_id is None else str(event.item_id)
    return event.type.value, item, sortable_at(happened_at(event, arrived_at))


def _taken_in(by_member: dict[int, list[Event]], told: Iterator[bytes]) -> TakenIn:
    n_begun, n_in_all, reacted = 0, 0, list[tuple[int, EventType]]()
    for member_id, own in by_member.items():
        n_begun += next(told) == b"1"
        outcomes = [(event.type, next(told)) for event in own]
        n_in_all += sum(outcome != b"" for _, outcome in outcomes)
        reacted += [(member_id, kind) for kind, outcome in outcomes if outcome == b"1"]
    return TakenIn(n_asked=n_begun, n_debounced=n_in_all - n_begun, reacted=reacted)
