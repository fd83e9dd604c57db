"""Batches: many questions in one file, answered within a day at a lower price.

The docstrings are the contract that every adapter is tested by. Where a method names no other error, the only one that
it raises is ``DependencyUnavailable``.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Protocol

from core.errors import LanguageModelFailed
from core.ports.language_model import Completion, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchState:
    """A batch as its provider sees it; once it ``has_ended`` its answers and errors are in ``file_ids``.

    ``problem`` says why it was refused as a whole.
    """

    batch_id: str
    status: str
    has_ended: bool
    n_done: int = 0
    n_total: int = 0
    file_ids: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class BatchReply:
    """How the request ``custom_id`` ended."""

    custom_id: str
    end: Completion | LanguageModelFailed


@dataclass(slots=True)
class BatchUsage:
    """What the answers of a batch used; ``cost_usd`` at the price of batches, of those whose price is known."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float = 0.0

    def add(self, other: "BatchUsage | Completion | LanguageModelFailed") -> None:
        """Count ``other`` too."""
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.cached_tokens += other.cached_tokens
        self.cost_usd += other.cost_usd or 0.0


class BatchApi(Protocol):
    """A provider's API of batches. What was sent bears a mark of ours, by which it is found again."""

    def line(self, custom_id: str, prompt: Prompt) -> bytes:
        """The request for ``prompt`` as a line of a file, newline included."""

    def max_cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What a request of so many tokens costs in a batch, nothing being cached; 0 where the price is not known."""

    async def check(self) -> None:
        """Return where there is such an API; raises ``ConfigurationError`` where the server has none."""

    async def find_file(self, name: str) -> str | None:
        """The id of the newest file of that name, or None."""

    async def upload(self, name: str, path: Path) -> str:
        """The id of the file that was made; sent once, so that a lost answer leaves one to be found."""

    async def find(self, mark: str, since: datetime) -> BatchState | None:
        """The batch that was created with ``mark``, after ``since``, or None."""

    async def create(self, file_id: str, mark: str) -> BatchState:
        """Begin to answer a file; sent once, as ``upload`` is. From here on it is paid for."""

    async def look(self, batch_id: str) -> BatchState:
        """The state now; one whose ``status`` is ``lost`` where the provider does not know it (any more)."""

    async def cancel(self, batch_id: str) -> None:
        """Ask the provider to end a batch with what is answered by now; one that has ended is left alone."""

    def replies(self, state: BatchState) -> AsyncIterator[BatchReply]:
        """All answers and errors, in any order, with what each cost; a file that is gone holds none."""

    async def delete_file(self, file_id: str) -> None:
        """Remove a file, if it is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPart:
    """One file of a refresh and its batch; ``key`` is random, and the mark that both bear at the provider.

    ``run_on`` is the day in the site's time zone; ``created_at`` is before anything was read for its questions.
    """

    key: str
    run_on: date
    created_at: datetime
    n_questions: int
    file_id: str | None = None
    batch_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchQuestion:
    """What is kept of a question until its answer is there; ``shown_ids`` are the items of the handles from 1 on."""

    custom_id: str
    member_id: int
    locale: str | None
    taste_mark: str
    shown_ids: Sequence[int]
    outcome: str | None = None


BATCH_OUTCOMES = ("merged", "stale", "failed", "unusable", "unanswered", "online")
"""What may become of a question."""


@dataclass(frozen=True, slots=True)
class BatchTotals:
    """What all batches used, and what became of their questions, by outcome."""

    usage: BatchUsage
    outcomes: Mapping[str, int]


class BatchLedger(Protocol):
    """What was sent and what became of it; outlives the process."""

    async def open_parts(self) -> Sequence[BatchPart]:
        """Those that are not closed, oldest first."""

    async def asked_members(self, run_on: date) -> set[int]:
        """Whom parts of that day ask about, and open parts of any day."""

    async def add(self, part: BatchPart, questions: Sequence[BatchQuestion]) -> None:
        """Keep both, in one transaction."""

    async def drop(self, key: str) -> None:
        """Forget a part that was never sent, and its questions."""

    async def note_file(self, key: str, file_id: str) -> bool:
        """The file of the part is uploaded; False where another run has dropped or closed the part meanwhile."""

    async def note_batch(self, key: str, batch_id: str) -> None:
        """The batch of the part is created."""

    async def questions(self, key: str, custom_ids: Collection[str]) -> Sequence[BatchQuestion]:
        """Those of ``custom_ids`` that the part holds."""

    async def settle(self, key: str, outcomes: Mapping[str, str]) -> None:
        """Keep the outcome of each question, by custom id."""

    async def settle_rest(self, key: str, outcome: str) -> None:
        """Keep the same outcome of all questions of the part that have none."""

    async def settled(self, key: str, outcomes: Collection[str]) -> Sequence[BatchQuestion]:
        """All questions of the part with one of these outcomes."""

    async def note_usage(self, key: str, usage: BatchUsage) -> None:
        """What all answers of the part used; a second time does nothing, for by then they may be deleted."""

    async def close(self, key: str, status: str) -> Mapping[str, int]:
        """Nothing of the part is left to do; how many questions ended with each outcome."""

    async def totals(self) -> BatchTotals:
        """Sums over all parts that there ever were."""

    async def forget(self, before: date) -> int:
        """Remove the questions of closed parts of days before that one; how many parts had any."""


class BatchPurse(Protocol):
    """What batches take of the money that all workers may spend a day."""

    async def left_usd(self) -> float | None:
        """What is left of today's; None: there is no ceiling."""

    async def reserve(self, key: str, max_usd: float) -> bool:
        """Take so much of today's for the part ``key``, if there is as much; a second time does nothing."""

    async def settle(self, key: str, usd: float) -> None:
        """Put what was paid in the place of what was reserved; a second time does nothing."""
