"""A backend on an ordinary day, all of it at once: jobs of every kind, requests by HTTP, songs that change, faults."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from time import time

import httpx

from tests.chaos.site import LIKED_BY_MEMBERS
from tests.soak.site import SoakSite
from tests.support.backend import Backend, Document, faults_of, job_body
from tests.support.catalogue import update_song
from tests.support.llm_faults import Fault

JOBS_A_SECOND, BATCH_JOBS_A_SECOND, REQUESTS_A_SECOND = 6.0, 1.5, 1.0
CHANGE_EVERY_S, FAULT_EVERY_S = 5.0, 20.0
REPEATED_SHARE, WISH_SHARE, KEY_SHARE, POISON_SHARE = 0.2, 0.15, 0.05, 0.01

_N_MEMBERS = 400
_POLL_S = 0.5
_STRATEGIES = ("default", "default", "fast", "fast", "deep", None)
_WISHES: Sequence[Mapping[str, str]] = (
    {"query": "calm jazz"},
    {"query": "신나는 노래"},
    {"mood": "sad"},
    {"activity": "work", "localTime": "23:10"},
)
_LLM_FAULTS = (Fault.SERVER_ERROR, Fault.RATE_LIMITED, Fault.HANG, Fault.NOT_JSON, Fault.CUT_BODY, Fault.REFUSAL)
_UNREADABLE = (b"", b"{", b"\xff\xfe", b"[]")


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that ended: when it was published, seconds since the epoch, and how long that took."""

    at_s: float
    latency_s: float
    is_batch: bool


@dataclass(slots=True)
class _Sent:
    at_s: float
    has: frozenset[int]
    is_batch: bool


@dataclass(slots=True)
class Tally:
    """What came of the load so far; ``wrong`` says what should not have been."""

    ended: list[Ended] = field(default_factory=list)
    n_degraded: int = 0
    n_poison: int = 0
    n_requests: int = 0
    n_changes: int = 0
    n_faults: int = 0
    wrong: list[str] = field(default_factory=list)


class JobWriter:
    """Bodies of jobs: members who ask again, wishes, keys."""

    def __init__(self, chance: Random, songs: Collection[int]) -> None:
        self._chance = chance
        self._songs = sorted(songs)
        self._asked: list[Document] = []

    def write(self, **fields: object) -> Document:
        """The next one."""
        if self._asked and self._chance.random() < REPEATED_SHARE:
            again = self._chance.choice(self._asked)
            return {**again, **_moment(job_body(1))}
        body = job_body(
            self._chance.randint(1, _N_MEMBERS),
            self._chance.sample(self._songs, self._chance.randint(0, 8)) or None,
            strategy=self._chance.choice(_STRATEGIES),
            topK=self._chance.randint(5, 15),
            locale=self._chance.choice(["ko", "en", "ja", None]),
            **fields,
        )
        if self._chance.random() < WISH_SHARE:
            body["context"] = self._chance.choice(_WISHES)
        if self._chance.random() < KEY_SHARE:
            body["idempotencyKey"] = f"key-{body['jobId']}"
        self._asked = [*self._asked[-50:], body]
        return body


def _moment(body: Document) -> Document:
    return {name: body[name] for name in ("jobId", "requestedAt")}


class MixedLoad:
    """Everything, within ``running``; ``tally`` is what came of it."""

    def __init__(self, site: SoakSite, chance: Random) -> None:
        self.tally = Tally()
        self._site, self._chance = site, chance
        self._writer = JobWriter(chance, site.songs)
        self._outstanding: dict[str, _Sent] = {}
        self._steps: set[asyncio.Task[None]] = set()

    @property
    def n_outstanding(self) -> int:
        """Jobs whose end was not seen yet."""
        return len(self._outstanding)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The load flows inside of the block, and all of its jobs have ended at its end."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            flowing = [
                group.create_task(each)
                for each in (
                    self._every(group, JOBS_A_SECOND, self._publish_one),
                    self._every(group, BATCH_JOBS_A_SECOND, self._refresh_one),
                    self._every(group, REQUESTS_A_SECOND, self._request_one),
                    self._every(group, 1 / CHANGE_EVERY_S, self._change_a_song),
                    self._every(group, 1 / FAULT_EVERY_S, self._trip_the_llm),
                )
            ]
            yield
            for task in flowing:
                task.cancel()
            await asyncio.wait(flowing)
            await self._all_ended()
            watching.cancel()

    async def burst(self, n: int) -> None:
        """So many jobs at once: pools fill, and what is needed at the most is taken, before anything is measured."""
        await self._publish(self._site.interactive, *(self._writer.write() for _ in range(n)), is_batch=False)

    async def _every(
        self, group: asyncio.TaskGroup, a_second: float, step: Callable[[], Coroutine[None, None, None]]
    ) -> None:
        """``step`` at the instants of a Poisson process, each in its own time: a slow worker is given no less."""
        while True:
            await asyncio.sleep(self._chance.expovariate(a_second))
            task = group.create_task(step())
            self._steps.add(task)
            task.add_done_callback(self._steps.discard)

    async def _publish_one(self) -> None:
        if self._chance.random() < POISON_SHARE:
            self.tally.n_poison += 1
            await self._site.interactive.publish_raw(self._chance.choice(_UNREADABLE))
        else:
            await self._publish(self._site.interactive, self._writer.write(), is_batch=False)

    async def _refresh_one(self) -> None:
        await self._publish(self._site.batch, self._writer.write(source="refresh"), is_batch=True)

    async def _publish(self, backend: Backend, *bodies: Document, is_batch: bool) -> None:
        for body in bodies:
            has = frozenset(body["favoriteSongIds"] or ()) | frozenset(LIKED_BY_MEMBERS.get(body["memberId"], ()))
            self._outstanding[body["jobId"]] = _Sent(time(), has, is_batch)
        await backend.publish(bodies)

    async def _request_one(self) -> None:
        """A request that the backend may make, of either worker; all of them may be answered 2xx, or 404: nothing."""
        member_id = self._chance.randint(1, _N_MEMBERS)
        likes = {"memberId": member_id, "favorite_song_ids": self._chance.sample(sorted(self._site.songs), 3)}
        path, body = self._chance.choice(
            [
                ("/recommend", likes),
                ("/favorites/updated", likes),
                ("/recommend/cached", {"memberId": member_id}),
                ("/warm/active?limit=2", None),
            ]
        )
        async with self._chance.choice(self._site.workers).client() as client:
            try:
                response = await client.post(path, json=body)
            except httpx.TransportError as error:
                self.tally.wrong.append(f"POST {path}: {error!r}")
                return
        self.tally.n_requests += 1
        if response.status_code >= 300 and (path, response.status_code) != ("/recommend/cached", 404):
            self.tally.wrong.append(f"POST {path}: {response.status_code} {response.text[:200]}")

    async def _change_a_song(self) -> None:
        self.tally.n_changes += 1
        song_id = self._chance.choice(sorted(self._site.songs))
        title = f"Song number {song_id}, edition {self.tally.n_changes}"
        await asyncio.to_thread(update_song, self._site.servers.mysql.url, song_id, title_en=title)

    async def _trip_the_llm(self) -> None:
        self.tally.n_faults += 1
        await self._site.llm.set_faults({"kind": self._chance.choice(_LLM_FAULTS), "times": 5})

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            await self._look()

    async def _look(self) -> None:
        """Take note of all jobs that ended since."""
        statuses = await self._site.interactive.statuses(list(self._outstanding)) if self._outstanding else {}
        ended = {each: fields for each, fields in statuses.items() if fields.get("status") in ("succeeded", "failed")}
        for job_id, fields in ended.items():
            await self._judge(job_id, fields, self._outstanding.pop(job_id))

    async def _judge(self, job_id: str, fields: Mapping[str, str], sent: _Sent) -> None:
        finished_s = datetime.fromisoformat(fields["finishedAt"]).timestamp()
        self.tally.ended.append(Ended(sent.at_s, finished_s - sent.at_s, sent.is_batch))
        if fields["status"] != "succeeded":
            self.tally.wrong.append(f"{job_id} {fields['status']}: {fields.get('error.message')}")
            return
        result = await self._site.interactive.result(job_id)
        self.tally.n_degraded += bool(result["degraded"])
        self.tally.wrong += [f"{job_id}: {fault}" for fault in faults_of(result, sent.has, self._site.songs)]

    async def _all_ended(self) -> None:
        async with asyncio.timeout(120):
            while self._outstanding or self._steps:  # noqa: ASYNC110 - the workers are other processes
                await asyncio.sleep(_POLL_S)
