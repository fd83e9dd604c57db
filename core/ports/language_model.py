"""The language model, and who may ask it when.

The docstrings are the contract that every adapter is tested by. Where a method names no other error, the only one that
it raises is ``DependencyUnavailable``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One question: static instructions, the data of this job, and the JSON schema of the answer."""

    system: str
    user: str
    schema_name: str
    schema: Mapping[str, object]
    max_output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The model's answer as text that should be JSON by the prompt's schema, and what it used.

    ``cached_tokens`` are those of ``prompt_tokens`` that the provider had in its cache. ``n_requests`` were sent for
    it, in ``n_calls`` of models, at ``cost_usd``; None where the price of one of them is not known.
    """

    text: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    n_requests: int = 1
    n_calls: int = 1
    cost_usd: float | None = None


class LanguageModel(Protocol):
    """Asks an LLM, within its time limit."""

    def name(self, *, deep: bool) -> str:
        """The model that ``complete`` would ask."""

    async def complete(self, prompt: Prompt, *, deep: bool = False) -> Completion:
        """The answer.

        Raises ``LanguageModelFailed`` alone: ``timeout``, ``rate_limited``, ``quota_exhausted``, ``unavailable``,
        ``refused`` (by the model), ``filtered`` (by the provider), ``truncated`` or ``malformed``; with
        ``partial_text`` where a part of the answer came.
        """


class TimedLanguageModel(LanguageModel, Protocol):
    """A ``LanguageModel`` whose single calls may be given less time than it takes at the most."""

    async def complete(
        self, prompt: Prompt, *, deep: bool = False, within_s: float | None = None, use: "CallUse | None" = None
    ) -> Completion:
        """See ``LanguageModel.complete``. However the call ends, cancelled too, ``use`` then says what it used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Leave for one call of ``model``, each request of which uses at most so much."""

    model: str
    token: str
    max_prompt_tokens: int
    max_completion_tokens: int


@dataclass(slots=True, kw_only=True)
class CallUse:
    """What a call has used so far; it grows while the call is made.

    Tokens are those that the provider told of. ``n_untold`` of the ``n_requests`` may have to be paid, and nothing is
    known of what they used.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    n_requests: int = 0
    n_untold: int = 0


class CallGuard(Protocol):
    """Says before each call whether it may be made, and learns of its end; one opinion among all workers."""

    async def admit(
        self, model: str, *, max_prompt_tokens: int, max_completion_tokens: int, patience_s: float
    ) -> Admission:
        """Leave for one call, for which there may be a wait of up to ``patience_s``; every one is to be settled.

        Raises ``LanguageModelFailed`` alone: ``breaker_open``, ``over_budget`` or ``over_spend``.
        """

    async def settle(self, admission: Admission, outcome: str, use: CallUse) -> float | None:
        """What the call cost in USD, None where that is not known; raises nothing.

        ``outcome`` is ``ok``, ``cancelled`` or the reason of ``LanguageModelFailed``.
        """
