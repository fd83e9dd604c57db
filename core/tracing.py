"""Spans of what happens, for whoever traces; and no cost where nobody does."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from core.ports.language_model import CallUse

Ended = Callable[[str, str], None]
"""Takes how a delivery ended and why, such as ``retried`` and ``dependency``."""

Answered = Callable[[int], None]
"""Takes the status of an answer."""


class Tracing(Protocol):
    """Makes each block a span, below the span that it is called in; a block that raises is a span that failed.

    Nothing here raises anything of its own, and no span holds a prompt, a secret, a member's id or an error's words.
    """

    def delivery(
        self, queue: str, *, headers: Mapping[str, object], body: bytes, redelivered: bool
    ) -> AbstractContextManager[Ended]:
        """A job's message is handled: below its publisher's span, or in the trace that it names."""

    def publishing(
        self, queue: str, *, job_id: str, trace_id: str | None
    ) -> AbstractContextManager[Mapping[str, object]]:
        """A job of ours is published, with the headers that are handed out, so that what comes of it is below."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """A stage of a job's way."""

    def llm_call(self, model: str, *, max_tokens: int, use: CallUse) -> AbstractContextManager[None]:
        """A call of ``model``; at its end ``use`` says what it used."""

    def request(self, method: str, route: str, headers: Mapping[str, object]) -> AbstractContextManager[Answered]:
        """An HTTP request is answered, below its sender's span where it names one."""

    def carried(self) -> Mapping[str, str]:
        """The headers that put whoever gets them below the span of this moment; none where there is none."""


class NoTracing:
    """Traces nothing."""

    def delivery(
        self, queue: str, *, headers: Mapping[str, object], body: bytes, redelivered: bool
    ) -> AbstractContextManager[Ended]:
        """See ``Tracing``."""
        return nullcontext(_nothing_ended)

    def publishing(
        self, queue: str, *, job_id: str, trace_id: str | None
    ) -> AbstractContextManager[Mapping[str, object]]:
        """See ``Tracing``."""
        return nullcontext({})

    def stage(self, name: str) -> AbstractContextManager[None]:
        """See ``Tracing``."""
        return nullcontext()

    def llm_call(self, model: str, *, max_tokens: int, use: CallUse) -> AbstractContextManager[None]:
        """See ``Tracing``."""
        return nullcontext()

    def request(self, method: str, route: str, headers: Mapping[str, object]) -> AbstractContextManager[Answered]:
        """See ``Tracing``."""
        return nullcontext(_nothing_answered)

    def carried(self) -> Mapping[str, str]:
        """See ``Tracing``."""
        return {}


def _nothing_ended(_outcome: str, _reason: str) -> None:
    """Nobody wants to know."""


def _nothing_answered(_status: int) -> None:
    """Nobody wants to know."""


NO_TRACING: Tracing = NoTracing()
