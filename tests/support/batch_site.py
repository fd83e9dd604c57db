"""A site for refreshes in batches: a catalogue, members who like songs, and a provider with a Batch API."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from random import Random
from typing import Any

import orjson

from config.settings import Settings
from config.token_price import TokenPrice
from core.ports.batches import BatchApi, BatchLedger, BatchPurse
from core.ports.catalogue import ActiveMembers
from core.ports.results import AnswerCache
from services.answer_cache import RedisAnswerCache
from services.batch_ledger import SqlBatchLedger
from services.batch_purse import RedisBatchPurse
from services.call_budgets import SPEND_PREFIX
from services.llm_batches import OpenAIBatches
from tests.support.catalogue import LONG_AGO, create_all_tables, insert_songs, like
from tests.support.llm_server import LLMServer
from training.batch_merge import BatchMerger
from training.batch_questions import LatestResults, RefreshQuestions
from training.batch_refresh import BatchRefresh, BatchRefreshConfig, Report
from training.embed import embed_catalogue
from workers.runtime.parts import Parts, open_parts

N_SONGS = 60
MODEL = "gpt-4.1-mini"
PRICE = TokenPrice(input=0.4, cached_input=0.1, output=1.6)
CONFIG = BatchRefreshConfig(
    time_zone="Asia/Seoul",
    first_poll_s=0.001,
    longest_poll_s=0.002,
    retry_waits_s=(0.001, 0.001),
)


class SteppedClock:
    """The real clock, as many days later as a test says."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.later: Any = 0

    def now(self) -> datetime:
        now: datetime = self._inner.now()
        return now + self.later if self.later else now

    def monotonic_s(self) -> float:
        return float(self._inner.monotonic_s())


def fill(url: str, n_members: int) -> None:
    """Songs, and members from 1 on, of whom the last liked something last."""
    create_all_tables(url)
    genres = ("ballad", "rock", "jazz")
    insert_songs(
        url,
        *(
            {"song_id": i, "title_en": f"Song {i}", "artist": f"Artist {i % 20}", "genre": genres[i % 3]}
            for i in range(1, N_SONGS + 1)
        ),
    )
    for member in range(1, n_members + 1):
        like(url, member, *Random(member).sample(range(1, N_SONGS + 1), 4), at=LONG_AGO.replace(minute=member))


async def embed(parts: Parts) -> None:
    """Vectors for all songs."""
    await embed_catalogue(parts.catalogue, parts.embedder, parts.embeddings, text_columns=parts.profile.item.text)


@dataclass
class BatchSite:
    """The parts of a process, and of the refresh as ``main.py`` puts it together; a test may exchange any."""

    parts: Parts
    llm: LLMServer
    url: str
    api: BatchApi
    ledger: BatchLedger
    purse: BatchPurse
    answers: AnswerCache
    results: LatestResults
    members: ActiveMembers
    clock: SteppedClock
    config: BatchRefreshConfig = CONFIG
    rest: Any = "next_run"
    published: list[Any] = field(default_factory=list)

    async def publish_job(self, job: Any, *, batch: bool = False) -> None:
        """Stands in for a broker."""
        assert batch
        self.published.append(job)

    def refresh(self) -> BatchRefresh:
        """What one process runs."""
        merger = BatchMerger(
            pipeline=self.parts.pipeline,
            results=self.results,
            answers=self.answers,
            publisher=self,
            api=self.api,
            ledger=self.ledger,
            clock=self.clock,
            rest=self.rest,
        )
        return BatchRefresh(
            members=self.members,
            questions=RefreshQuestions(self.parts.pipeline, self.results, self.api),
            merger=merger,
            answers=self.answers,
            api=self.api,
            ledger=self.ledger,
            purse=self.purse,
            clock=self.clock,
            config=self.config,
        )

    async def run(self, n_members: int = 100, **config: Any) -> Report:
        """One run to its end."""
        if config:
            self.config = replace(self.config, **config)
        return await self.refresh().run(n_members)

    async def latest(self, member: int) -> dict[str, Any] | None:
        """What the backend shows the member."""
        found = await self.parts.results.latest(member)
        return None if found is None else dict(orjson.loads(found))

    async def spend_usd(self) -> float:
        """What is spent, of all days."""
        days = [key async for key in self.parts.redis.scan_iter(match=f"{SPEND_PREFIX}*")]
        return sum([int(await self.parts.redis.get(key) or 0) for key in days]) / 1e9

    def lines(self) -> Iterator[dict[str, Any]]:
        """The requests that batches were created with."""
        for batch in self.llm.batches.batches.values():
            yield from batch.requests


@asynccontextmanager
async def open_batch_site(settings: Settings, llm: LLMServer, url: str, *, n_members: int) -> AsyncIterator[BatchSite]:
    """Filled and embedded, with the index loaded."""
    fill(url, n_members)
    async with open_parts(settings) as parts:
        await embed(parts)
        await parts.index.load()
        clock = SteppedClock(parts.clock)
        api = OpenAIBatches(
            model=MODEL,
            api_key=settings.openai_api_key,
            base_url=settings.openai_base_url,
            price=PRICE,
            price_factor=0.5,
        )
        yield BatchSite(
            parts=parts,
            llm=llm,
            url=url,
            api=api,
            ledger=SqlBatchLedger(parts.database),
            purse=RedisBatchPurse(parts.redis, clock, daily_usd=0.0, time_zone="Asia/Seoul"),
            answers=RedisAnswerCache(parts.redis, ttl_s=86_400, degraded_ttl_s=600),
            results=parts.results,
            members=parts.members,
            clock=clock,
        )
        await api.aclose()
