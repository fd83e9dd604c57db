"""Brings the stored vectors up to date with the catalogue: what ``python main.py embed`` does."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import structlog

from core.embedding import content_hash
from core.ports import Catalogue, Embedder, EmbeddingStore
from models.catalogue import Item
from models.log_event import LogEvent

Progress = Callable[[int], None]
"""Called with how many items have been looked at."""

_log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class EmbedReport:
    """What a run did; ``n_without_content`` counts items that have nothing to embed, and so no vector."""

    n_items: int = 0
    n_embedded: int = 0
    n_unchanged: int = 0
    n_without_content: int = 0
    n_deleted: int = 0


@dataclass(slots=True)
class _Run:
    embedder: Embedder
    store: EmbeddingStore
    known: Mapping[int, bytes]
    text_columns: Collection[str]
    kept_ids: set[int] = field(default_factory=set)
    report: EmbedReport = field(default_factory=EmbedReport)

    async def batch(self, items: Sequence[Item]) -> None:
        """Embed and save those of ``items`` that are new or changed."""
        hashes = [content_hash(item, self.text_columns) for item in items]
        stale = [place for place, item in enumerate(items) if self.known.get(item.item_id) != hashes[place]]
        fresh = {item.item_id for item in items} - {items[place].item_id for place in stale}
        self.kept_ids |= fresh
        self.report.n_items += len(items)
        self.report.n_unchanged += len(fresh)
        if stale:
            await self._embed([items[place] for place in stale], [hashes[place] for place in stale])

    async def _embed(self, items: Sequence[Item], hashes: Sequence[bytes]) -> None:
        vectors = await self.embedder.embed(items)
        places: list[int] = np.flatnonzero(np.any(vectors, axis=1)).tolist()
        ids = np.array([items[place].item_id for place in places], np.int64)
        if len(ids):
            await self.store.save(self.embedder.name, ids, vectors[places], [hashes[place] for place in places])
        self.kept_ids.update(ids.tolist())
        self.report.n_embedded += len(ids)
        self.report.n_without_content += len(items) - len(ids)

    async def delete_gone(self) -> None:
        """Delete the vectors of items that are gone, inactive, or without content by now."""
        gone = self.known.keys() - self.kept_ids
        if gone:
            await self.store.delete(self.embedder.name, gone)
        self.report.n_deleted = len(gone)


async def embed_catalogue(
    catalogue: Catalogue,
    embedder: Embedder,
    store: EmbeddingStore,
    progress: Progress = lambda _done: None,
    *,
    batch_size: int = 1000,
    text_columns: Collection[str] = (),
) -> EmbedReport:
    """Embed what is new or changed, and delete what is gone; ``text_columns`` are those that ``embedder`` reads.

    Each batch is saved in a transaction of its own: a run that was cut off is gone on with by the next one. Raises
    ``DependencyUnavailable`` and ``ConfigurationError`` as the ports do.
    """
    run = _Run(embedder, store, await store.content_hashes(embedder.name), text_columns)
    async for items in catalogue.stream(batch_size):
        await run.batch(items)
        progress(run.report.n_items)
    await run.delete_gone()
    report = run.report
    _log.info(LogEvent.ITEMS_EMBEDDED, embedder=embedder.name, embedded=report.n_embedded, deleted=report.n_deleted)
    return report
