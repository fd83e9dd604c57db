"""Filling a catalogue that is ours.

The docstrings are the contract that every adapter is tested by. Where a method names no other error, the only one that
it raises is ``DependencyUnavailable``.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from core.ports.collaborative import Interaction
from models.source import SourceItem, SourceListener


class IngestStore(Protocol):
    """Writes the catalogue where no backend does: for demonstrations, tests and sites that have none."""

    async def prepare(self) -> None:
        """Create the backend's tables where they are absent.

        Raises ``ConfigurationError`` naming the table where it holds rows that this store did not write.
        """

    async def content_hashes(self, source: str) -> dict[str, bytes]:
        """The hash of the content that each item of ``source`` was last saved with, by its id there."""

    async def save(self, source: str, items: Sequence[SourceItem], content_hashes: Sequence[bytes]) -> None:
        """Insert the items that ``source`` has not brought before and update the others, in one transaction."""

    async def item_ids(self, source: str) -> dict[str, int]:
        """The id in the catalogue of each item that ``source`` has brought, by its id there."""

    async def save_likes(self, likes: Sequence[Interaction]) -> int:
        """Insert those of ``likes``, each of another member or item, that are not there yet, and say how many.

        Weights are not kept: the table of likes has none.
        """

    async def save_listeners(self, listeners: Sequence[SourceListener]) -> None:
        """Insert made-up members, their likes and playlists, in place of what such members had before.

        Raises ``ConfigurationError`` naming the table where it holds members that this store did not write.
        """


@dataclass(frozen=True, slots=True)
class RowPage:
    """Some rows of a source, as text cells by column; ``cursor``: where the next page begins, None: after the last."""

    rows: Sequence[Mapping[str, str]]
    cursor: str | None


class RowSource(Protocol):
    """What rows are imported from page by page, such as a service's API; nothing is ever written there.

    ``key`` names the source and what is read of it: by it ``ImportCursors`` knows where to go on.
    """

    @property
    def key(self) -> str:
        """At most 191 characters, and no secret."""

    def pages(self, cursor: str | None) -> AsyncGenerator[RowPage, None]:
        """The pages from ``cursor`` on, None being the beginning; rows may come that came before.

        Raises ``ConfigurationError`` where keys or names are refused, and ``DependencyUnavailable``.
        """


class ImportCursors(Protocol):
    """Where imports go on that were interrupted."""

    async def cursor(self, key: str) -> str | None:
        """Of the source of that key; None: at its beginning."""

    async def keep(self, key: str, cursor: str | None) -> None:
        """Go on there; None: nothing is left to go on with."""


@dataclass(frozen=True, slots=True)
class ListedItem:
    """That an item is in a member's list, such as a playlist."""

    list_id: int
    member_id: int
    item_id: int


class ListStore(Protocol):
    """Writes lists of members into a catalogue that is ours."""

    async def save_lists(self, rows: Sequence[ListedItem]) -> int:
        """Insert those of ``rows``, each of another list or item, that are not there yet, and say how many."""
