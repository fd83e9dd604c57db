"""Tells of a day's LLM money that is spent: a guard around the one that counts it."""

from core.errors import LanguageModelFailed
from core.ports.language_model import Admission, CallGuard, CallUse
from core.ports.observing import Notices
from models.notice import Notice, NoticeKind


class TellingGuard:
    """A ``CallGuard`` that does as ``guard`` does, and tells where that refuses for the ceiling of the day."""

    def __init__(self, guard: CallGuard, notices: Notices, *, daily_usd: float) -> None:
        self._guard, self._notices, self._daily_usd = guard, notices, daily_usd

    async def admit(
        self, model: str, *, max_prompt_tokens: int, max_completion_tokens: int, patience_s: float
    ) -> Admission:
        """See ``CallGuard.admit``."""
        try:
            return await self._guard.admit(
                model,
                max_prompt_tokens=max_prompt_tokens,
                max_completion_tokens=max_completion_tokens,
                patience_s=patience_s,
            )
        except LanguageModelFailed as failure:
            if failure.reason == "over_spend":
                self._notices.tell_soon(
                    Notice(
                        kind=NoticeKind.BUDGET_REACHED,
                        text=f"results are made without the LLM for now: {failure}",
                        figures={"LLM_DAILY_USD": self._daily_usd},
                    )
                )
            raise

    async def settle(self, admission: Admission, outcome: str, use: CallUse) -> float | None:
        """See ``CallGuard.settle``."""
        return await self._guard.settle(admission, outcome, use)
