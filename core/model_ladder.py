"""From one model to the next where a call fails, within one limit of time and with leave for every call."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from core.errors import LanguageModelFailed
from core.lanes import LaneSlots
from core.ports.clock import Clock
from core.ports.language_model import CallGuard, CallUse, Completion, Prompt, TimedLanguageModel
from models.recommendation import sum_usd

FINAL_REASONS = frozenset({"quota_exhausted", "truncated", "over_spend"})
"""Failures after which no other model is asked: one account and purse are behind all of them, and of an answer that was
cut short the part that came is used."""

_FALLBACK_SHARE = 0.4
_QUEUE_SHARE = 0.5
_LEAST_S = 0.05
_MESSAGE_TOKENS = 64


class ModelLadder:
    """A ``LanguageModel`` that asks each of ``rungs`` in turn until one answers.

    All calls and waits of one question take ``timeout_s`` at the most. ``max_concurrency`` questions are under way at
    once, a quarter of them of batch jobs; a further one waits for half of its time, and is ``over_capacity`` then:
    with less, a call would seldom end in time and be paid for all the same. Breaker and budgets are asked after that
    wait, as they are when the call is made. A rung that has others below it may use six tenths of what is left, so
    that these have time; waiting for room in the budget counts as its time, and takes ``patience_s`` at the most.
    """

    def __init__(
        self,
        rungs: Sequence[TimedLanguageModel],
        guard: CallGuard,
        clock: Clock,
        *,
        timeout_s: float,
        patience_s: float,
        max_concurrency: int,
    ) -> None:
        if not rungs:
            raise ValueError("a ladder needs a rung")
        self._rungs = rungs
        self._guard = guard
        self._clock = clock
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        # A batch call holds its slot for seconds: three of four are kept for those who come meanwhile.
        self._slots = LaneSlots(max_concurrency, n_batch=max(1, max_concurrency // 4))

    def name(self, *, deep: bool) -> str:
        """The model that ``complete`` would ask first."""
        return self._rungs[0].name(deep=deep)

    async def complete(self, prompt: Prompt, *, deep: bool = False) -> Completion:
        """The first answer, with what all calls for it used.

        Raises the last ``LanguageModelFailed``, with what all calls used, and with what came of an earlier answer
        where nothing came of the last one.
        """
        deadline_s = self._clock.monotonic_s() + self._timeout_s
        async with self._slot():
            return await self._descend(prompt, deadline_s, deep=deep)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as held:
            wait_s = self._timeout_s * _QUEUE_SHARE
            try:
                async with asyncio.timeout(wait_s):
                    await held.enter_async_context(self._slots.slot())
            except TimeoutError as error:
                raise _Ledger().failed(
                    LanguageModelFailed("over_capacity", f"no slot within {wait_s:.3g} s")
                ) from error
            yield

    async def _descend(self, prompt: Prompt, deadline_s: float, *, deep: bool) -> Completion:
        ledger = _Ledger()
        failure = LanguageModelFailed("timeout", "no time was left for a call")
        rungs = self._distinct(deep=deep)
        for n_below, rung in zip(reversed(range(len(rungs))), rungs, strict=True):
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s < _LEAST_S:
                break
            within_s = left_s * (1 - _FALLBACK_SHARE) if n_below else left_s
            try:
                completion = await self._call(rung, prompt, ledger, deep=deep, within_s=within_s)
            except LanguageModelFailed as error:
                failure = _with_what_came(error, rung.name(deep=deep), failure)
                if error.reason in FINAL_REASONS:
                    break
            else:
                return ledger.completed(completion)
        raise ledger.failed(failure)

    def _distinct(self, *, deep: bool) -> list[TimedLanguageModel]:
        """The rungs without those that ask a model once more."""
        return list({rung.name(deep=deep): rung for rung in reversed(self._rungs)}.values())[::-1]

    async def _call(
        self, rung: TimedLanguageModel, prompt: Prompt, ledger: "_Ledger", *, deep: bool, within_s: float
    ) -> Completion:
        deadline_s = self._clock.monotonic_s() + within_s
        admission = await self._guard.admit(
            rung.name(deep=deep),
            max_prompt_tokens=max_prompt_tokens(prompt),
            max_completion_tokens=prompt.max_output_tokens,
            patience_s=min(self._patience_s, within_s / 2),
        )
        outcome, use = "cancelled", CallUse()
        try:
            left_s = max(_LEAST_S, deadline_s - self._clock.monotonic_s())
            completion = await rung.complete(prompt, deep=deep, within_s=left_s, use=use)
            outcome = "ok"
        except LanguageModelFailed as failure:
            outcome = failure.reason
            raise
        finally:
            ledger.add(use, await self._guard.settle(admission, outcome, use))
        return completion


def _with_what_came(error: LanguageModelFailed, model: str, before: LanguageModelFailed) -> LanguageModelFailed:
    """``error`` of ``model``, with the part of an answer that came last, and whose it is."""
    error.model = model if error.partial_text or not before.partial_text else before.model
    error.partial_text = error.partial_text or before.partial_text
    return error


def max_prompt_tokens(prompt: Prompt) -> int:
    """What the prompt takes at the most: a token of a byte-level BPE stands for one byte or more."""
    schema = json.dumps(prompt.schema, separators=(",", ":"))
    return len((prompt.system + prompt.user + prompt.schema_name + schema).encode()) + _MESSAGE_TOKENS


@dataclass(slots=True)
class _Ledger:
    """What the calls for one question used together."""

    n_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    n_requests: int = 0
    cost_usd: float | None = 0.0

    def add(self, use: CallUse, cost_usd: float | None) -> None:
        self.n_calls += 1
        self.prompt_tokens += use.prompt_tokens
        self.completion_tokens += use.completion_tokens
        self.cached_tokens += use.cached_tokens
        self.n_requests += use.n_requests
        self.cost_usd = sum_usd(self.cost_usd, cost_usd)

    def completed(self, completion: Completion) -> Completion:
        return replace(
            completion,
            n_calls=self.n_calls,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            n_requests=self.n_requests,
            cost_usd=self.cost_usd,
        )

    def failed(self, failure: LanguageModelFailed) -> LanguageModelFailed:
        failure.n_calls = self.n_calls
        failure.prompt_tokens = self.prompt_tokens
        failure.completion_tokens = self.completion_tokens
        failure.cached_tokens = self.cached_tokens
        failure.n_requests = self.n_requests
        failure.cost_usd = self.cost_usd
        return failure
