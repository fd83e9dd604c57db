"""The HTTP application with stand-ins for what it publishes to, and a client that speaks to it without a socket."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from api.app import create_app
from api.health import HealthReporter
from core.errors import DependencyUnavailable, PublishRefused
from core.feedback import RefreshRequests
from core.ports.clock import Clock
from core.ports.messages import JobPublisher
from core.ports.model_store import ModelRegistry
from core.ports.observing import HealthCheck
from core.ports.results import ResultCache
from models.event import Event
from models.job import Job
from services.metrics import PrometheusMetrics
from services.redis_client import open_redis
from services.refresh_requests import RedisRefreshRequests
from services.result_cache import RedisResultCache
from tests.support.hand_clock import HandClock
from tests.support.page_routes import Pages
from tests.support.small_catalogue import Showroom, showroom


class RecordingPublisher:
    """Keeps what is published, and what its status was at that moment; refuses the jobs of ``refused_members``."""

    def __init__(self, results: ResultCache) -> None:
        self._results = results
        self.main: list[Job] = []
        self.batch: list[Job] = []
        self.status_when_published: list[str | None] = []
        self.refused_members: set[int] = set()
        self.refused: list[Job] = []

    async def publish_job(self, job: Job, *, batch: bool = False) -> None:
        view = await self._results.job(job.job_id)
        self.status_when_published.append(view.status if view else None)
        if job.member_id in self.refused_members:
            self.refused.append(job)
            raise PublishRefused("no queue took it, at amqp://guest:guest@broker/")
        (self.batch if batch else self.main).append(job)


@dataclass
class FixedMembers:
    """Members in order of activity."""

    member_ids: Sequence[int] = ()
    asked: list[int] = field(default_factory=list)

    async def active_member_ids(self, limit: int, offset: int = 0) -> Sequence[int]:
        self.asked.append(limit)
        return self.member_ids[offset : offset + limit]


class RecordingEvents:
    """Keeps the events that are published; refuses them while it ``is_away``."""

    def __init__(self) -> None:
        self.published: list[Event] = []
        self.is_away = False

    async def publish_event(self, event: Event) -> None:
        if self.is_away:
            raise PublishRefused("no queue took it, at amqp://guest:guest@broker/")
        self.published.append(event)


class Unavailable:
    """Whatever is asked of it: the dependency is away."""

    def __getattr__(self, name: str) -> object:
        async def away(*_: object, **__: object) -> None:
            raise DependencyUnavailable("redis", "ConnectionError at redis://:secret@cache:6379")

        return away


def make_metrics(clock: Clock | None = None) -> PrometheusMetrics:
    return PrometheusMetrics(CollectorRegistry(), clock=clock or HandClock())


@dataclass
class HttpBench:
    """All parts of an application under test."""

    app: FastAPI
    client: httpx.AsyncClient
    results: RedisResultCache
    publisher: RecordingPublisher
    members: FixedMembers
    metrics: PrometheusMetrics
    clock: HandClock
    refreshes: RedisRefreshRequests
    events: RecordingEvents
    showroom: Showroom
    pages: Pages
    health: HealthReporter


@asynccontextmanager
async def http_bench(
    redis_url: str = "memory://",
    *,
    checks: Mapping[str, HealthCheck] | None = None,
    results: object = None,
    publishes_to: JobPublisher | None = None,
    api_key: str = "",
    keyed_reads: bool = False,
    answer_timeout_s: float = 30.0,
    rate_limit: str = "",
    cors_origins: Sequence[str] = (),
) -> AsyncIterator[HttpBench]:
    """The application over Redis (in this process unless a URL is given); ``results`` takes the place of its cache."""
    clock = HandClock()
    metrics = make_metrics(clock)
    async with open_redis(redis_url, max_connections=10, timeout_s=5) as redis:
        cache = RedisResultCache(redis, clock, job_ttl_s=600, cache_ttl_s=600, lease_s=15)
        publisher, members = RecordingPublisher(cache), FixedMembers()
        refreshes = RedisRefreshRequests(redis, quiet_s=0.001, drift_s=0.001)
        events, shown, pages = RecordingEvents(), showroom(clock, metrics), Pages()
        shelf = cast("ResultCache", results or cache)
        health = HealthReporter(checks or {}, clock=clock, observer=metrics)
        app = create_app(
            health=health,
            expose_metrics=metrics.expose,
            observer=metrics,
            results=shelf,
            publisher=publishes_to or publisher,
            members=members,
            clock=clock,
            refreshes=cast("RefreshRequests", results or refreshes),
            browser=shown.browser,
            seeds=shown.seeds,
            events=events,
            api_key=SecretStr(api_key),
            keyed_reads=keyed_reads,
            rate_limit=rate_limit,
            cors_origins=cors_origins,
            answer_timeout_s=answer_timeout_s,
            catalogue_viewer=pages.catalogue_viewer(shown),
            member_viewer=pages.member_viewer(shown, shelf),
            models=cast("ModelRegistry", pages.models),
            dead_letters=pages.desk,
        )
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://songs-ai") as client:
            yield HttpBench(
                app, client, cache, publisher, members, metrics, clock, refreshes, events, shown, pages, health
            )
