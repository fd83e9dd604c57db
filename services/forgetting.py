"""Members are forgotten: their rows, their keys, and whatever of them is still under way."""

import asyncio
from datetime import datetime
from typing import Any, cast

import sqlalchemy as sa
from redis.asyncio import Redis
from sqlalchemy.dialects import mysql, sqlite

from core.feedback import Remains
from services import result_cache as keys
from services.database import Database
from services.redis_client import RedisScript, redis_errors
from services.refresh_requests import BURST_PREFIX, DUE_KEY, LIKES_PREFIX
from services.schema import forgotten_member, interaction, refresh_question
from services.stored_instants import aware, naive

EVENTS, QUESTIONS = "events", "questions of batches"
RESULTS, JOBS, ANSWERS, SIGNS, REFRESHES = (
    "cached results", "jobs", "answers and keys", "shown and refused items", "refreshes asked for",
)  # fmt: skip
REDIS_PLACES = (RESULTS, JOBS, ANSWERS, SIGNS, REFRESHES)

_OF_A_JOB = (
    keys.STATUS_PREFIX, keys.RESULT_PREFIX, keys.LEASE_PREFIX, keys.DEAD_LETTER_DUE_PREFIX, keys.VIEWS_PREFIX,
)  # fmt: skip
_OF_RESULTS = (
    keys.LATEST_PREFIX, keys.VIEW_PREFIX, keys.PREFERENCE_PREFIX, keys.ORDER_PREFIX, keys.PROVISIONAL_PREFIX,
)  # fmt: skip
_OF_A_MEMBER = (
    keys.FORGOTTEN_PREFIX, keys.INDEX_PREFIX, None, BURST_PREFIX, LIKES_PREFIX, keys.REFUSED_PREFIX, keys.SHOWN_PREFIX,
    *_OF_RESULTS,
)  # fmt: skip
_SHORTEST_MARK_S = 7 * 86_400
_N_ROUND_TRIPS = 12
_PAGE = 1000


class MemberForgetting:
    """The ``Forgetting`` of database and Redis.

    The database first: from there on no event of before is written, however late it comes. Then Redis: from there on no
    job of before is saved; that mark lives as long as such a job may (``max_age_s``; 0, which is without end: a week).
    Where either is away, doing it all again does the rest: each is done in one step, and has a mark from then on.
    """

    def __init__(self, database: Database, client: Redis, *, max_age_s: float) -> None:
        self._database = database
        self._client = client
        self._mark_s = max(_SHORTEST_MARK_S, round(max_age_s))
        self._forget = RedisScript(client, "forget")

    async def forget(self, member_id: int, at: datetime) -> Remains:
        """See ``Forgetting.forget``."""
        known = await self.forgotten_at(member_id)
        # Said again, however late: what there is now is of after it.
        is_done = known is not None and known >= at
        rows = dict.fromkeys((EVENTS, QUESTIONS), 0) if is_done else await self._forget_rows(member_id, naive(at))
        names = [DUE_KEY if prefix is None else f"{prefix}{member_id}" for prefix in _OF_A_MEMBER]
        marks: list[str | bytes | int] = [keys.sortable_at(at), self._mark_s, str(member_id), keys.FORGOTTEN_JOB_PREFIX]
        counts = await self._forget(names, [*marks, *_OF_A_JOB])
        return Remains(places={**rows, **dict(zip(REDIS_PLACES, cast("list[int]", counts), strict=True))})

    async def _forget_rows(self, member_id: int, at: datetime) -> dict[str, int]:
        events, questions = interaction.c, refresh_question.c
        async with self._database.begin(n_round_trips=_N_ROUND_TRIPS) as connection:
            await connection.execute(_mark(self._database.name, member_id, at))
            own = sa.and_(events.member_id == member_id, events.occurred_at <= at)
            n_events = (await connection.execute(sa.delete(interaction).where(own))).rowcount
            asked = sa.delete(refresh_question).where(questions.member_id == member_id)
            n_questions = (await connection.execute(asked)).rowcount
        return {EVENTS: n_events, QUESTIONS: n_questions}

    async def remains(self, member_id: int) -> Remains:
        """See ``Forgetting.remains``: rows are counted, and all keys of Redis are looked through for the member's name.

        What is named by job or fingerprint is found by the member's index.
        """
        async with self._database.connect(n_round_trips=_N_ROUND_TRIPS) as connection:
            n_events = await connection.scalar(_count(interaction, member_id))
            n_questions = await connection.scalar(_count(refresh_question, member_id))
        return Remains(places={EVENTS: n_events, QUESTIONS: n_questions, **await self._keys_of(member_id)})

    async def forgotten_at(self, member_id: int) -> datetime | None:
        """When the member was forgotten last, in UTC; None where they never were."""
        columns = forgotten_member.c
        async with self._database.connect() as connection:
            at = await connection.scalar(sa.select(columns.forgotten_at).where(columns.member_id == member_id))
        return None if at is None else aware(at)

    async def _keys_of(self, member_id: int) -> dict[str, int]:
        places = dict.fromkeys(REDIS_PLACES, 0)
        with redis_errors():
            places[REFRESHES] += await self._client.zscore(DUE_KEY, str(member_id)) is not None
            index = cast("list[bytes]", await self._client.zrange(f"{keys.INDEX_PREFIX}{member_id}", 0, -1))
            for entry in index:
                kind, _, name = entry.decode().partition(" ")
                named = [prefix + name for prefix in _OF_A_JOB] if kind == "job" else [name]
                places[JOBS if kind == "job" else ANSWERS] += min(1, await self._client.exists(*named))
            async for key in self._client.scan_iter(match=f"*:{member_id}*", count=_PAGE):
                if place := _place_of(key.decode(), member_id):
                    places[place] += 1
                await asyncio.sleep(0)
        return places


def _place_of(key: str, member_id: int) -> str | None:
    """Where a key of this member's belongs; None for another's, and for the mark that they were forgotten."""
    name = str(member_id)
    if key.startswith(f"{keys.IDEMPOTENCY_PREFIX}{name}:"):
        return ANSWERS
    prefix, _, last = key.rpartition(":")
    if last != name or f"{prefix}:" == keys.FORGOTTEN_PREFIX:
        return None
    if f"{prefix}:" in _OF_RESULTS:
        return RESULTS
    if f"{prefix}:" in (BURST_PREFIX, LIKES_PREFIX):
        return REFRESHES
    return SIGNS if f"{prefix}:" in (keys.REFUSED_PREFIX, keys.SHOWN_PREFIX) else None


def _mark(database: str, member_id: int, at: datetime) -> sa.Insert:
    row, columns = {"member_id": member_id, "forgotten_at": at}, forgotten_member.c
    if database == "sqlite":
        statement = sqlite.insert(forgotten_member).values(row)
        later = sa.func.max(columns.forgotten_at, statement.excluded.forgotten_at)
        return statement.on_conflict_do_update(index_elements=[columns.member_id], set_={"forgotten_at": later})
    inserted = mysql.insert(forgotten_member).values(row)
    greatest = sa.func.greatest(columns.forgotten_at, inserted.inserted.forgotten_at)
    return inserted.on_duplicate_key_update(forgotten_at=greatest)


def _count(table: sa.Table, member_id: int) -> sa.Select[Any]:
    return sa.select(sa.func.count()).select_from(table).where(table.c.member_id == member_id)
