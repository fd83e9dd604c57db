"""Brings the stored vectors up to date with the catalogue: what ``python main.py embed`` does.

Statistics of the catalogue are fitted where there are none, or where it has outgrown them. They are put in force last,
once all is embedded by them: a run that was cut off leaves the former ones in force, and the next one, which fits the
same to the same catalogue, goes on with it.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import structlog

from core.catalogue_statistics import MIN_ITEMS, STATISTICS_KIND, CatalogueCount, CatalogueStatistics, version_of
from core.embedding import HashingEmbedder, content_hash
from core.errors import ConfigurationError
from core.ports.catalogue import Catalogue, ChangingCatalogue, ItemsMark
from core.ports.index import Embedder, EmbeddingStore
from core.ports.model_store import ModelStore
from models.catalogue import Item
from models.log_event import LogEvent

Progress = Callable[[int], None]
"""Called with how many items have been looked at."""

_log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class EmbedReport:
    """What a run did; ``n_without_content`` counts items that have nothing to embed, and so no vector.

    ``gone_ids``: of those that had a vector and are no longer in the catalogue.
    """

    n_items: int = 0
    n_embedded: int = 0
    n_unchanged: int = 0
    n_without_content: int = 0
    n_deleted: int = 0
    gone_ids: set[int] = field(default_factory=set, compare=False)


@dataclass(slots=True)
class _Run:
    embedder: Embedder
    store: EmbeddingStore
    known: Mapping[int, bytes]
    text_columns: Collection[str]
    kept_ids: set[int] = field(default_factory=set)
    empty_ids: set[int] = field(default_factory=set)
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
        self.empty_ids |= {item.item_id for item in items}.difference(ids.tolist())
        self.report.n_embedded += len(ids)
        self.report.n_without_content += len(items) - len(ids)

    async def delete_gone(self) -> None:
        """Delete the vectors of items that are gone, inactive, or without content by now."""
        gone = self.known.keys() - self.kept_ids
        if gone:
            await self.store.delete(self.embedder.name, gone)
        self.report.n_deleted += len(gone)
        self.report.gone_ids |= gone - self.empty_ids


async def embed_catalogue(
    catalogue: Catalogue,
    embedder: Embedder,
    store: EmbeddingStore,
    progress: Progress = lambda _done: None,
    *,
    batch_size: int = 1000,
    text_columns: Collection[str] = (),
    pack: bool = True,
) -> EmbedReport:
    """Embed what is new or changed, delete what is gone, and pack; ``text_columns`` are those that ``embedder`` reads.

    Each batch is saved in a transaction of its own: a run that was cut off is gone on with by the next one. Raises
    ``DependencyUnavailable`` and ``ConfigurationError`` as the ports do.
    """
    run = _Run(embedder, store, await store.content_hashes(embedder.name), text_columns)
    async for items in catalogue.stream(batch_size):
        await run.batch(items)
        progress(run.report.n_items)
    await run.delete_gone()
    if pack:
        await store.pack(embedder.name)
    _tell(embedder.name, run.report)
    return run.report


class FittingEmbedder(Embedder, Protocol):
    """An ``Embedder`` by statistics of the catalogue, those that a store has in force."""

    @property
    def statistics(self) -> CatalogueStatistics:
        """Those in force."""

    @property
    def is_current(self) -> bool:
        """Whether there are any that were fitted, and for its dimensions."""

    def fitted(self, counting: CatalogueCount) -> HashingEmbedder:
        """The embedder that this would be by the statistics of all that was counted."""

    async def refresh(self) -> None:
        """Put those in force that the store says."""


class FormerEmbeddings(Protocol):
    """Embeddings as wholes, by the names of their embedders."""

    async def names(self) -> set[str]:
        """All that anything is stored of."""

    async def forget(self, embedder_names: Collection[str]) -> None:
        """Delete all that is stored of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """What statistics are fitted with, and where they and what was embedded by former ones are kept."""

    embedder: FittingEmbedder
    models: ModelStore
    former: FormerEmbeddings
    feature_weights: Mapping[str, float] = field(default_factory=dict)
    refit: bool = False


async def fit_and_embed(
    catalogue: ChangingCatalogue,
    fitting: Fitting,
    store: EmbeddingStore,
    progress: Progress = lambda _done: None,
    *,
    batch_size: int = 1000,
    text_columns: Collection[str] = (),
) -> EmbedReport:
    """``embed_catalogue`` by statistics that suit the catalogue; ``progress`` begins anew where they are fitted.

    What was embedded by statistics that were no longer in force when this began is deleted: whoever still searches it
    has had the time between two runs to look. Raises ``ConfigurationError`` where ``refit`` is asked of too few items,
    and what ``embed_catalogue`` raises.
    """
    await _refreshed(fitting)
    before = fitting.embedder.name
    n_items = len((await catalogue.mark()).active_ids)
    fitted = None
    if _is_due(fitting, n_items):
        fitted = await _fitted(catalogue, fitting, progress, batch_size, text_columns)
    embedder: Embedder = fitted or fitting.embedder
    report = await embed_catalogue(
        catalogue, embedder, store, progress, batch_size=batch_size, text_columns=text_columns
    )
    if fitted:
        await _put_in_force(fitted.statistics, fitting)
    await _forget(fitting.former, {before, embedder.name})
    return report


async def _refreshed(fitting: Fitting) -> None:
    try:
        await fitting.embedder.refresh()
    except ConfigurationError:
        # What cannot be read is mended by fitting anew.
        if not fitting.refit:
            raise


def _is_due(fitting: Fitting, n_items: int) -> bool:
    if n_items < MIN_ITEMS:
        if fitting.refit:
            raise ConfigurationError(f"--refit: {n_items} items are too few, {MIN_ITEMS} are needed")
        return False
    is_current = fitting.embedder.is_current and not fitting.embedder.statistics.is_outgrown(n_items)
    return fitting.refit or not is_current


async def _fitted(
    catalogue: Catalogue, fitting: Fitting, progress: Progress, batch_size: int, text_columns: Collection[str]
) -> HashingEmbedder:
    counting, n_items = CatalogueCount(text_columns, fitting.feature_weights), 0
    async for items in catalogue.stream(batch_size):
        await asyncio.to_thread(counting.add, items)
        n_items += len(items)
        progress(n_items)
    return await asyncio.to_thread(fitting.embedder.fitted, counting)


async def _put_in_force(statistics: CatalogueStatistics, fitting: Fitting) -> None:
    payload = await asyncio.to_thread(statistics.to_bytes)
    version = version_of(payload)
    await fitting.models.save(STATISTICS_KIND, version, payload, {"n_items": statistics.n_items})
    await fitting.models.activate(STATISTICS_KIND, version)
    await fitting.embedder.refresh()


async def _forget(former: FormerEmbeddings, kept: set[str]) -> None:
    """Delete what was embedded by other statistics, and otherwise as one of ``kept`` was."""
    stems = {_stem(name) for name in kept}
    await former.forget({name for name in await former.names() if _stem(name) in stems} - kept)


def _stem(name: str) -> str:
    """Kind, version and dimension of such as ``hashing-2-256-1f2e3d4c``."""
    return "-".join(name.split("-")[:3])


class CatalogueFollower:
    """Keeps the stored vectors up to date with a catalogue: all of it the first time, then what has changed.

    Several processes may do this at once: what one has embedded, the others leave as it is. ``on_gone`` is told of
    items that are no longer active; of those that went while nobody followed, where their vectors are still there.
    """

    def __init__(
        self,
        catalogue: ChangingCatalogue,
        embedder: Embedder,
        store: EmbeddingStore,
        *,
        text_columns: Collection[str] = (),
        batch_size: int = 1000,
        on_gone: Callable[[Collection[int]], None] | None = None,
    ) -> None:
        self._catalogue, self._embedder, self._store = catalogue, embedder, store
        self._text_columns = text_columns
        self._on_gone = on_gone
        self._batch_size = batch_size
        self._mark: ItemsMark | None = None
        self._embedder_name: str | None = None

    async def follow(self) -> EmbedReport:
        """Embed and delete what has to be since the last call that ended well. Raises as ``embed_catalogue``."""
        if self._mark is None or self._embedder_name != self._embedder.name:
            return await self._follow_all()
        changes = await self._catalogue.changes(self._mark)
        report = EmbedReport()
        touched = [*changes.changed.tolist(), *changes.gone.tolist()]
        for start in range(0, len(touched), self._batch_size):
            await self._follow_some(touched[start : start + self._batch_size], report)
        self._mark = changes.mark
        if self._on_gone and len(changes.gone):
            self._on_gone(changes.gone.tolist())
        if report.n_embedded or report.n_deleted:
            _tell(self._embedder.name, report)
        return report

    async def _follow_all(self) -> EmbedReport:
        # Taken first: what changes meanwhile is looked at again.
        name, mark = self._embedder.name, await self._catalogue.mark()
        report = await embed_catalogue(
            self._catalogue,
            self._embedder,
            self._store,
            batch_size=self._batch_size,
            text_columns=self._text_columns,
            pack=False,
        )
        self._mark, self._embedder_name = mark, name
        if self._on_gone and report.gone_ids:
            self._on_gone(report.gone_ids)
        return report

    async def _follow_some(self, item_ids: Sequence[int], report: EmbedReport) -> None:
        known = await self._store.content_hashes(self._embedder.name, item_ids)
        run = _Run(self._embedder, self._store, known, self._text_columns, report=report)
        await run.batch(await self._catalogue.complete_items(item_ids))
        await run.delete_gone()


def _tell(embedder_name: str, report: EmbedReport) -> None:
    _log.info(LogEvent.ITEMS_EMBEDDED, embedder=embedder_name, embedded=report.n_embedded, deleted=report.n_deleted)
