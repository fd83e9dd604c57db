"""The one ``CallGuard``: first the breaker, then the budgets, and what each call cost."""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Protocol

import structlog

from core.errors import DependencyUnavailable, LanguageModelFailed
from core.observing import unfailing
from core.ports.language_model import Admission, CallUse
from models.log_event import LogEvent
from services.call_budgets import RedisCallBudgets, Reservation
from services.circuit_breaker import BreakerState, Passage, RedisCircuitBreaker

log = structlog.get_logger()


class GuardObserver(Protocol):
    """Counts what the guard does; ``model`` is one of those named to ``llm_guarded``."""

    def llm_guarded(self, models: Sequence[str], *, ceiling_usd: float) -> None:
        """These models are asked, for at most so much a day (0: no limit)."""

    def llm_cost(self, model: str, usd: float, *, spend_usd: float | None) -> None:
        """A call cost so much by its price; ``spend_usd`` is what all workers spent today.

        That is None where it could not be asked. What has no price is not told of.
        """

    def llm_breaker(self, model: str, state: str) -> None:
        """The breaker of a model is ``closed``, ``half_open`` or ``open``, as this worker last heard."""

    def llm_budget_wait(self, seconds: float, *, admitted: bool) -> None:
        """A call waited so long for room in the budget, and got it or not."""

    def llm_guard_unavailable(self, part: str) -> None:
        """``breaker`` or ``budgets`` could not be asked, since Redis is away."""


class RedisCallGuard:
    """A ``CallGuard``; ``breaker`` and ``budgets`` may be missing.

    Without Redis the breaker lets calls pass, for it only spares time. Budgets do not, for what nobody counts may
    be above a limit: ``over_budget``.
    """

    def __init__(
        self, breaker: RedisCircuitBreaker | None, budgets: RedisCallBudgets | None, observer: GuardObserver
    ) -> None:
        self._breaker = breaker
        self._budgets = budgets
        self._observer = observer
        self._reservations: dict[str, Reservation] = {}

    async def admit(
        self, model: str, *, max_prompt_tokens: int, max_completion_tokens: int, patience_s: float
    ) -> Admission:
        """See ``CallGuard.admit``."""
        token = secrets.token_hex(8)
        try:
            await self._pass_breaker(model, token)
            await self._reserve(model, token, max_prompt_tokens, max_completion_tokens, patience_s)
        except (LanguageModelFailed, asyncio.CancelledError):
            # A breaker whose answer is still on the way may hold a place for this call, as the one that probes.
            await self._tell_breaker(model, token, "cancelled")
            raise
        return Admission(
            model=model,
            token=token,
            max_prompt_tokens=max_prompt_tokens,
            max_completion_tokens=max_completion_tokens,
        )

    async def settle(self, admission: Admission, outcome: str, use: CallUse) -> float | None:
        """See ``CallGuard.settle``. Each request that nothing is told of counts as the most that it can have used."""
        await self._tell_breaker(admission.model, admission.token, outcome)
        reservation = self._reservations.pop(admission.token, None)
        if self._budgets is None or reservation is None:
            return _unpriced(use)
        tokens, cost_usd = _spent(self._budgets, admission, use)
        spend_usd = None
        try:
            spend_usd = await self._budgets.settle(
                reservation, n_requests=use.n_requests, tokens=tokens, cost_usd=cost_usd or 0.0
            )
        except DependencyUnavailable as error:
            self._unavailable("budgets", error)
        if cost_usd is not None:
            with unfailing():
                self._observer.llm_cost(admission.model, cost_usd, spend_usd=spend_usd)
        return cost_usd

    async def _pass_breaker(self, model: str, token: str) -> None:
        """Raises ``LanguageModelFailed`` where the model is not to be asked."""
        if self._breaker is None:
            return
        try:
            passage = await self._breaker.admit(model, token)
        except DependencyUnavailable as error:
            self._unavailable("breaker", error)
            return
        with unfailing():
            state = BreakerState.HALF_OPEN if passage is Passage.PROBE else BreakerState(passage.value)
            self._observer.llm_breaker(model, state)
        if passage is Passage.OPEN:
            raise LanguageModelFailed("breaker_open", f"{model} failed too often")

    async def _tell_breaker(self, model: str, token: str, outcome: str) -> None:
        if self._breaker is None:
            return
        try:
            state = await self._breaker.settle(model, token, outcome)
        except DependencyUnavailable as error:
            self._unavailable("breaker", error)
            return
        with unfailing():
            self._observer.llm_breaker(model, state)

    async def _reserve(
        self, model: str, token: str, prompt_tokens: int, completion_tokens: int, patience_s: float
    ) -> None:
        if self._budgets is None:
            return
        try:
            reservation = await self._budgets.reserve(
                model,
                token,
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                patience_s=patience_s,
            )
        except DependencyUnavailable as error:
            self._unavailable("budgets", error)
            raise LanguageModelFailed("over_budget", "the budget cannot be asked") from error
        except LanguageModelFailed as failure:
            if failure.reason == "over_budget":
                with unfailing():
                    self._observer.llm_budget_wait(patience_s, admitted=False)
            raise
        self._reservations[token] = reservation
        with unfailing():
            self._observer.llm_budget_wait(reservation.waited_s, admitted=True)

    def _unavailable(self, part: str, error: DependencyUnavailable) -> None:
        log.warning(LogEvent.LLM_GUARD_UNAVAILABLE, part=part, error=str(error))
        with unfailing():
            self._observer.llm_guard_unavailable(part)


def _spent(budgets: RedisCallBudgets, admission: Admission, use: CallUse) -> tuple[int, float | None]:
    """Tokens and USD of a call: as told, and the most for each request of which nothing is told.

    Of those that are told of, no more counts than they can have used: a senseless number would close the day's purse.
    """
    most_tokens = admission.max_prompt_tokens + admission.max_completion_tokens
    most_usd = budgets.cost_usd(
        admission.model,
        prompt_tokens=admission.max_prompt_tokens,
        completion_tokens=admission.max_completion_tokens,
    )
    told_usd = budgets.cost_usd(
        admission.model,
        prompt_tokens=use.prompt_tokens,
        completion_tokens=use.completion_tokens,
        cached_tokens=use.cached_tokens,
    )
    n_told = use.n_requests - use.n_untold
    tokens = min(use.prompt_tokens + use.completion_tokens, n_told * most_tokens) + use.n_untold * most_tokens
    if told_usd is None or most_usd is None:
        return tokens, _unpriced(use)
    return tokens, min(told_usd, n_told * most_usd) + use.n_untold * most_usd


def _unpriced(use: CallUse) -> float | None:
    """Without a price what a call cost is known only where nothing was used."""
    return None if use.prompt_tokens or use.completion_tokens or use.n_untold else 0.0
