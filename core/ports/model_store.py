"""Fitted models: their versions, which of them is in force, and how it came to be.

The docstrings are the contract that every adapter is tested by. Where a method names no other error, the only one that
it raises is ``DependencyUnavailable``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


class ModelStore(Protocol):
    """What was fitted, under kinds such as ``collaborative``: every version is kept, and one of a kind is in force."""

    async def active_version(self, kind: str) -> str | None:
        """The version in force, or None; cheap enough to ask at every refresh."""

    async def load(self, kind: str, version: str) -> bytes | None:
        """What was saved, checked by its checksum; None where there is no such version.

        Raises ``ConfigurationError`` naming kind and version where the stored bytes are not those that were saved.
        """

    async def save(self, kind: str, version: str, payload: bytes, metrics: Mapping[str, float]) -> None:
        """Keep ``payload`` under ``version``, in one transaction; a version that is there already is left as it is."""

    async def activate(self, kind: str, version: str) -> None:
        """Put a saved version in force; raises ``ConfigurationError`` naming a version that is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOrigin:
    """What a version was made by and of: ``recipe`` and ``data_figures`` are JSON of those who made it.

    ``data_until`` is the instant of the newest that is in it, aware, or None where it is not known.
    """

    recipe: str = "{}"
    data_figures: str = "{}"
    data_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVersion:
    """A version that is kept; ``previous`` is the one that a rollback would put in force."""

    kind: str
    version: str
    created_at: datetime
    active: bool
    previous: bool
    n_bytes: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """That ``version`` was put in force in place of ``replaced``.

    ``cause`` is ``fit``, ``promote``, ``rollback`` or ``activate``.
    """

    kind: str
    version: str
    replaced: str | None
    cause: str
    reason: str
    promoted_at: datetime


class ModelRegistry(Protocol):
    """The versions of a ``ModelStore``, and how one of them came to be in force."""

    async def versions(self, kind: str) -> Sequence[StoredVersion]:
        """All that are kept, newest first."""

    async def origin(self, kind: str, version: str) -> ModelOrigin | None:
        """What was noted of it, or None."""

    async def note_origin(self, kind: str, version: str, origin: ModelOrigin) -> None:
        """Keep what a saved version was made of; what is noted already stays as it is."""

    async def promote(self, kind: str, version: str, *, instead_of: str | None, cause: str, reason: str) -> bool:
        """Put a saved version in force, if ``instead_of`` (None: none) still is; False where it is not any more.

        Raises ``ConfigurationError`` naming a version that is not there.
        """

    async def roll_back(self, kind: str, reason: str) -> str:
        """Put the version in force that was before the active one; its name.

        Raises ``ConfigurationError`` where there is none.
        """

    async def promotions(self, kind: str) -> Sequence[Promotion]:
        """All there were, oldest first."""

    async def prune(self, n_kept: int) -> Sequence[tuple[str, str]]:
        """Delete versions of each kind but the ``n_kept`` newest, the active and the previous one; which were."""
