"""What becomes of the answers of a batch: each is read, merged and saved as that of a job would be, once."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from core.errors import LanguageModelFailed, MemberForgotten
from core.pipeline import RecommendationPipeline
from core.ports.batches import (
    BATCH_OUTCOMES,
    BatchApi,
    BatchLedger,
    BatchPart,
    BatchQuestion,
    BatchReply,
    BatchState,
    BatchUsage,
)
from core.ports.clock import Clock
from core.ports.messages import JobPublisher
from core.ports.results import AnswerCache, ResultCache
from core.refresh_job import refresh_job
from training.batch_questions import AT_ONCE
from training.online_refresh import WINDOW, submit_refreshes

MERGED, STALE, FAILED, UNUSABLE, UNANSWERED, ONLINE = BATCH_OUTCOMES

# The failure of which something may be left: the complete picks of an answer that reached its length.
_CUT_SHORT = "truncated"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BatchMerger:
    """Merges what a batch answered; may be cut off anywhere and run again, and then does the rest.

    ``rest``: questions without an answer that can be shown are left to the ``next_run``, or put on the batch queue as
    jobs of their own (``online``).
    """

    def __init__(
        self,
        *,
        pipeline: RecommendationPipeline,
        results: ResultCache,
        answers: AnswerCache,
        publisher: JobPublisher,
        api: BatchApi,
        ledger: BatchLedger,
        clock: Clock,
        rest: Literal["next_run", "online"],
    ) -> None:
        self._pipeline = pipeline
        self._results = results
        self._answers = answers
        self._publisher = publisher
        self._api = api
        self._ledger = ledger
        self._clock = clock
        self._rest = rest

    async def merge(self, part: BatchPart, state: BatchState) -> BatchUsage:
        """Save what can be, settle every question; what the answers used, those merged before included.

        Raises ``DependencyUnavailable``.
        """
        usage = BatchUsage()
        async for replies in _chunks(self._api.replies(state)):
            for reply in replies:
                usage.add(reply.end)
            await self._merge_some(part, {reply.custom_id: reply for reply in replies})
        await self._ledger.settle_rest(part.key, UNANSWERED)
        if self._rest == "online":
            await self._ask_online(part)
        return usage

    async def _merge_some(self, part: BatchPart, replies: Mapping[str, BatchReply]) -> None:
        questions = await self._ledger.questions(part.key, list(replies))
        todo = [question for question in questions if question.outcome is None]
        merging = (self._merge_one(part, question, replies[question.custom_id]) for question in todo)
        outcomes = await asyncio.gather(*merging)
        if todo:
            settled = {question.custom_id: outcome for question, outcome in zip(todo, outcomes, strict=True)}
            await self._ledger.settle(part.key, settled)

    async def _merge_one(self, part: BatchPart, question: BatchQuestion, reply: BatchReply) -> str:
        if isinstance(reply.end, LanguageModelFailed) and reply.end.reason != _CUT_SHORT:
            return FAILED
        # Its instant is that of the question: what the member asked for since then is newer.
        requested_at_ns = instant_ns(part.created_at)
        job = refresh_job(question.member_id, part.run_on, requested_at_ns=requested_at_ns, locale=question.locale)
        prepared = await self._pipeline.prepare(job)
        if prepared.asked is None or prepared.taste_mark != question.taste_mark:
            return STALE
        documents = await self._pipeline.finish(prepared, reply.end, question.shown_ids)
        if documents.degraded:
            # Less than half of it is there. A member who waits is shown that; what this one has already is better.
            return UNUSABLE
        try:
            await self._results.succeed(job, documents, token=part.key)
        except MemberForgotten:
            return STALE
        if prepared.fingerprint == question.custom_id:
            await self._answers.put(question.custom_id, documents, job)
        return MERGED

    async def _ask_online(self, part: BatchPart) -> None:
        rest = await self._ledger.settled(part.key, [STALE, FAILED, UNUSABLE, UNANSWERED])
        now_ns = instant_ns(self._clock.now())
        for start in range(0, len(rest), WINDOW):
            some = rest[start : start + WINDOW]
            await submit_refreshes(some, part.run_on, now_ns, results=self._results, publisher=self._publisher)
            await self._ledger.settle(part.key, {question.custom_id: ONLINE for question in some})


def instant_ns(instant: datetime) -> int:
    """Nanoseconds since the epoch, exact to the microsecond."""
    return (instant - _EPOCH) // timedelta(microseconds=1) * 1000


async def _chunks(replies: AsyncIterator[BatchReply]) -> AsyncIterator[Sequence[BatchReply]]:
    chunk: list[BatchReply] = []
    async for reply in replies:
        chunk.append(reply)
        if len(chunk) == AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
