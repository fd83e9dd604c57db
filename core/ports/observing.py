"""What is seen and told of the work.

The docstrings are the contract that every adapter is tested by. Where a method names no other error, the only one that
it raises is ``DependencyUnavailable``.
"""

from contextlib import AbstractContextManager
from typing import Protocol

from models.notice import Notice


class Observer(Protocol):
    """Counts what happens, with bounded labels; never a member's or an item's id."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time one stage of the pipeline: ``listener``, ``retrieve``, ``hydrate``, ``rank``, ``rerank``, ``save``."""

    def unknown_items(self, n: int) -> None:
        """Liked ids that the index does not hold."""

    def answer_cache(self, *, hit: bool) -> None:
        """A look-up by fingerprint."""

    def llm_call(
        self,
        *,
        model: str,
        outcome: str,
        seconds: float,
        prompt_tokens: int,
        completion_tokens: int,
        cached_tokens: int = 0,
    ) -> None:
        """One call of ``model``; ``outcome`` is ``ok`` or the reason of ``LanguageModelFailed``."""

    def llm_retried(self, cause: str) -> None:
        """A further request of the same call: after a failure, or without what the endpoint refused."""

    def llm_dropped(self, cause: str, n: int) -> None:
        """Parts of an LLM answer that could not be used."""

    def degraded(self, reason: str) -> None:
        """A result made without the LLM's judgement although it was asked for."""

    def answered(self, *, arm: str, kind: str, seconds: float) -> None:
        """A job of ``arm`` (``core.llm_share.Arm``) was answered: ``new``, ``degraded`` or ``reused``."""


class Notices(Protocol):
    """Tells the people who run a site, by whatever ways they have set; by none is fine too. Neither method raises."""

    async def tell(self, notice: Notice) -> None:
        """Send it and come back, unless one of its kind was sent a short while ago."""

    def tell_soon(self, notice: Notice) -> None:
        """The same in the background, for who must not wait; cheap enough to be called for every job."""


class HealthCheck(Protocol):
    """Looks at one dependency, cheaply: it runs at every probe."""

    async def __call__(self) -> str | None:
        """None where all is well, else a sentence that warns; raises ``DependencyUnavailable`` where it is not."""
