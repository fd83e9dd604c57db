"""Which active members a refresh asks about, and what that costs at the most."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

import orjson

from core.model_ladder import max_prompt_tokens
from core.pipeline import Prepared, RecommendationPipeline
from core.ports.batches import BatchApi, BatchQuestion
from core.ports.language_model import Prompt
from core.ports.results import ResultCache
from core.refresh_job import refresh_job
from core.token_estimate import rough_tokens
from models.job import Job, JobStatus

AT_ONCE = 8
"""Members who are looked at side by side: their reads overlap, and the rest is work for one core."""

_BYTES_PER_TOKEN = 4


class LatestResults(ResultCache, Protocol):
    """A ``ResultCache`` that also tells what a member saw last."""

    async def latest(self, member_id: int) -> bytes | None:
        """``latest:recommendation:{memberId}``, JSON, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A question that is to be asked; ``max_usd`` is the most that its answer can cost."""

    question: BatchQuestion
    line: bytes
    max_usd: float
    rough_prompt_tokens: int
    max_completion_tokens: int


@dataclass(slots=True)
class Estimate:
    """What a refresh would do: ``skipped`` counts members about whom nothing is asked, by reason.

    ``usd`` is what the requests cost with answers of the greatest length.
    """

    n_members: int = 0
    n_requests: int = 0
    n_bytes: int = 0
    rough_prompt_tokens: int = 0
    max_completion_tokens: int = 0
    usd: float = 0.0
    skipped: Counter[str] = field(default_factory=Counter)


class RefreshQuestions:
    """Looks at members, and says of each what to ask or why nothing."""

    def __init__(self, pipeline: RecommendationPipeline, results: LatestResults, api: BatchApi) -> None:
        self._pipeline = pipeline
        self._results = results
        self._api = api

    async def of(self, member_ids: Sequence[int], on: date, requested_at_ns: int) -> AsyncIterator[Due | str]:
        """For each member a question, or ``refreshed`` (today), ``kept`` (its answer) or ``nothing`` (to ask a model).

        Raises ``DependencyUnavailable``.
        """
        for start in range(0, len(member_ids), AT_ONCE):
            chunk = member_ids[start : start + AT_ONCE]
            for each in await asyncio.gather(*(self._of(member_id, on, requested_at_ns) for member_id in chunk)):
                yield each

    async def estimate(self, member_ids: Sequence[int], on: date, requested_at_ns: int) -> Estimate:
        """What asking about ``member_ids`` would come to; nothing is sent or written."""
        found = Estimate(n_members=len(member_ids))
        async for each in self.of(member_ids, on, requested_at_ns):
            if isinstance(each, str):
                found.skipped[each] += 1
                continue
            found.n_requests += 1
            found.n_bytes += len(each.line)
            found.rough_prompt_tokens += each.rough_prompt_tokens
            found.max_completion_tokens += each.max_completion_tokens
            found.usd += self._api.max_cost_usd(each.rough_prompt_tokens, each.max_completion_tokens)
        return found

    async def _of(self, member_id: int, on: date, requested_at_ns: int) -> Due | str:
        locale = _locale(await self._results.latest(member_id))
        job = refresh_job(member_id, on, requested_at_ns=requested_at_ns, locale=locale)
        if await self._is_refreshed(job):
            return "refreshed"
        if await self._pipeline.is_answered(job):
            return "kept"
        return self._due(job, await self._pipeline.prepare(job))

    async def _is_refreshed(self, job: Job) -> bool:
        view = await self._results.job(job.job_id)
        return view is not None and view.status is JobStatus.SUCCEEDED

    def _due(self, job: Job, prepared: Prepared) -> Due | str:
        if prepared.asked is None:
            return "nothing"
        prompt = prepared.asked.prompt
        question = BatchQuestion(
            custom_id=prepared.fingerprint,
            member_id=job.member_id,
            locale=job.locale,
            taste_mark=prepared.taste_mark,
            shown_ids=prepared.shown_ids,
        )
        return Due(
            question=question,
            line=self._api.line(question.custom_id, prompt),
            max_usd=self._api.max_cost_usd(max_prompt_tokens(prompt), prompt.max_output_tokens),
            rough_prompt_tokens=_rough_prompt_tokens(prompt),
            max_completion_tokens=prompt.max_output_tokens,
        )


def _locale(latest: bytes | None) -> str | None:
    """The locale in which the member was answered last: a refresh must not change the language of what they see."""
    try:
        locale = orjson.loads(latest or b"{}").get("locale")
    except (orjson.JSONDecodeError, AttributeError):  # not written by us
        return None
    return locale if isinstance(locale, str) else None


def _rough_prompt_tokens(prompt: Prompt) -> int:
    """The data lines by their fitted estimate, the rest as English prose and JSON."""
    static = len(prompt.system) + len(orjson.dumps(dict(prompt.schema)))
    return round(rough_tokens(prompt.user.splitlines()) + static / _BYTES_PER_TOKEN)
