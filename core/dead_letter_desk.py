"""Dead letters for those who look at them from elsewhere: the role of what lists and replays them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterNote:
    """A job that was given up; ``member_id`` and ``age_s`` are None where its message does not tell."""

    letter_id: str
    member_id: int | None
    reason: str
    code: str
    error: str
    n_tries: int
    n_replays: int
    age_s: float | None


@dataclass(frozen=True, slots=True)
class DeadLetterPage:
    """The oldest dead letters, and how many there are together."""

    letters: Sequence[DeadLetterNote]
    n: int


class DeadLetterDesk(Protocol):
    """The dead-letter queue of jobs. Every method raises ``DependencyUnavailable``."""

    async def oldest(self, n: int) -> DeadLetterPage:
        """At most ``n``; nothing changes."""

    async def replay(self, letter_ids: Collection[str]) -> Mapping[str, str]:
        """Send them back to work; what became of each that was found, by id."""
