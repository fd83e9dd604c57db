"""The POST routes that the backend and older clients call: publish to the queue, read from Redis, nothing more."""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Protocol

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException

from api.contract_shapes import (
    CachedView,
    LikesBody,
    MemberBody,
    QueuedAnswer,
    RecommendAnswer,
    RecommendBody,
    WarmAnswer,
)
from api.refusals import WRITE, Documented, away, documented, not_found, wrong_input
from api.responses import json_response
from core.feedback import RefreshRequests
from core.ports.catalogue import ActiveMembers
from core.ports.clock import Clock
from core.ports.messages import JobPublisher
from core.ports.results import ResultCache
from core.submission import submit
from models.job import Job, JobContext

MAX_REFRESHED = 1000
# Confirms are awaited together, window by window: one at a time would run at a tenth of the rate.
PUBLISH_WINDOW = 64

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _MadeFrom(BaseModel):
    """What a cached view says of its own origin, beside the likes."""

    generated_date: str
    provisional: bool = False
    locale: str = ""


_Document = TypeAdapter(dict[str, object])
_Ids = TypeAdapter(frozenset[int])


class RefreshObserver(Protocol):
    """Sees requests for refreshes."""

    def refreshes_asked(self, *, n_begun: int, n_debounced: int) -> None:
        """Refreshes were asked for: some were the first to ask, the others joined them."""


class JobDesk:
    """Makes jobs of requests, and looks up what is there already."""

    def __init__(
        self,
        *,
        results: ResultCache,
        publisher: JobPublisher,
        members: ActiveMembers,
        clock: Clock,
        refreshes: RefreshRequests,
        observer: RefreshObserver,
        favorites_field: str = "favorite_song_ids",
    ) -> None:
        self._results = results
        self._publisher = publisher
        self._members = members
        self._clock = clock
        self._refreshes = refreshes
        self._observer = observer
        self._favorites_field = favorites_field

    async def submit(
        self,
        member_id: int,
        item_ids: Sequence[int],
        source: str,
        *,
        top_k: int | None = None,
        locale: str | None = None,
        context: JobContext | None = None,
    ) -> Job:
        """A job of the member, published; raises ``DependencyUnavailable``."""
        job = replace(self._job(member_id, item_ids, source), top_k=top_k, locale=locale, context=context)
        await submit(job, results=self._results, publisher=self._publisher)
        return job

    async def ask_refresh(self, member_id: int, item_ids: Sequence[int]) -> None:
        """Ask for a refresh of the member, together with all that asks for it in these seconds.

        Raises ``DependencyUnavailable``.
        """
        begins = await self._refreshes.ask(member_id, item_ids)
        self._observer.refreshes_asked(n_begun=int(begins), n_debounced=int(not begins))

    async def refresh(self, limit: int) -> str:
        """Put jobs of the most active members on the batch queue; their trace id, returned, is the task's.

        Raises ``DependencyUnavailable``: of the jobs published before, some may run all the same.
        """
        task_id = str(uuid.uuid4())
        member_ids = await self._members.active_member_ids(min(limit, MAX_REFRESHED))
        jobs = [self._job(member_id, (), "refresh", trace_id=task_id) for member_id in member_ids]
        for start in range(0, len(jobs), PUBLISH_WINDOW):
            await self._submit_all(jobs[start : start + PUBLISH_WINDOW])
        return task_id

    async def cached_view(self, member_id: int) -> bytes | None:
        """The member's cached view, JSON; raises ``DependencyUnavailable``."""
        return await self._results.cached_view(member_id)

    async def fresh_date(self, member_id: int, item_ids: Sequence[int], locale: str | None = None) -> str | None:
        """The date of the cached view where it was made from exactly these likes, and is not provisional.

        Where a ``locale`` is asked for, it must also be in that language. Raises ``DependencyUnavailable``.
        """
        if not item_ids:
            return None  # which likes these are, only the worker will know
        view = await self._results.cached_view(member_id)
        if view is None:
            return None
        return _date_if_made_from(view, self._favorites_field, frozenset(item_ids), locale)

    async def _submit_all(self, jobs: Sequence[Job]) -> None:
        submissions = [submit(job, results=self._results, publisher=self._publisher, batch=True) for job in jobs]
        outcomes = await asyncio.gather(*submissions, return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    def _job(self, member_id: int, item_ids: Sequence[int], source: str, trace_id: str | None = None) -> Job:
        return Job(
            job_id=str(uuid.uuid4()),
            member_id=member_id,
            favorite_item_ids=tuple(item_ids),
            source=source,
            requested_at_ns=(self._clock.now() - _EPOCH) // timedelta(microseconds=1) * 1000,
            trace_id=trace_id,
        )


def recommendation_router(desk: JobDesk) -> APIRouter:
    """The routes of the wire contract."""
    no_member = wrong_input("memberId", "must be an integer or a string of digits", "seven")
    router = APIRouter(tags=["recommendations"], responses=documented(WRITE) | away("redis") | no_member)

    @router.post(
        "/recommend", summary="A job of a member, or that a fresh list is kept", responses=_answered(RecommendAnswer)
    )
    async def recommend(body: RecommendBody) -> Response:
        """``completed`` where a result of exactly these likes is cached, else ``queued`` with the id of a new job.

        With a ``locale``, what is cached in another language is made anew.
        """
        likes = body.favorite_song_ids or ()
        generated_date = await desk.fresh_date(body.member_id, likes, body.locale)
        if generated_date is not None:
            return _answer("completed", "A recommendation of these likes is ready.", generated_date, job_id=None)
        job = await desk.submit(body.member_id, likes, "http", locale=body.locale)
        return _answer("queued", "The recommendation is being made.", None, job_id=job.job_id)

    @router.post(
        "/recommend/cached",
        summary="The list that is kept for a member",
        responses=_answered(CachedView) | not_found("No recommendation is cached for member 7."),
    )
    async def cached(body: MemberBody) -> Response:
        """The member's cached view, which says whether it is provisional, and ``cached: true``, or 404."""
        view = await desk.cached_view(body.member_id)
        if view is None:
            raise HTTPException(404, f"No recommendation is cached for member {body.member_id}.")
        return Response(_with_cached_mark(view), media_type="application/json")

    @router.post("/favorites/updated", summary="Tell that likes of a member changed", responses=_answered(QueuedAnswer))
    async def favorites_updated(body: LikesBody) -> Response:
        """A new job with the new likes, once the member's likes have come to rest, as after an event of them."""
        await desk.ask_refresh(body.member_id, body.favorite_song_ids or ())
        return json_response({"status": "queued"})

    none = wrong_input("limit", "must be at least 1", "0")

    @router.post(
        "/warm/active", summary="Refresh the lists of the most active members", responses=_answered(WarmAnswer) | none
    )
    async def warm_active(limit: Annotated[int, Query(ge=1)] = 100) -> Response:
        """Jobs of the most active members on the batch queue."""
        return json_response({"task_id": await desk.refresh(limit), "status": "queued"})

    return router


def _answered(model: type[BaseModel]) -> Documented:
    """What the document says of 200, for routes that answer bytes."""
    return {HTTPStatus.OK.value: {"model": model}}


def _answer(status: str, message: str, generated_date: str | None, *, job_id: str | None) -> Response:
    return json_response({"status": status, "message": message, "generated_date": generated_date, "jobId": job_id})


def _with_cached_mark(view: bytes) -> bytes:
    """The JSON object ``view`` with one more member, in front: some ten kilobytes need no parser for that."""
    rest = view.lstrip()[1:].lstrip()
    comma = b"" if rest.startswith(b"}") else b","
    return b'{"cached":true' + comma + rest


def _date_if_made_from(view: bytes, favorites_field: str, item_ids: frozenset[int], locale: str | None) -> str | None:
    try:
        document = _Document.validate_json(view)
        made, likes = _MadeFrom.model_validate(document), _Ids.validate_python(document.get(favorites_field))
    except ValidationError:
        return None  # not written by us, and nothing to tell likes by
    is_so = likes == item_ids and not made.provisional and locale in (None, made.locale)
    return made.generated_date if is_so else None
