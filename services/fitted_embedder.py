"""The hashing embedder by the statistics in force, which ``main.py embed`` fits and stores."""

import asyncio
from collections.abc import Collection, Sequence

import structlog

from core.catalogue_statistics import STATISTICS_KIND, CatalogueCount, CatalogueStatistics
from core.embedding import HashingEmbedder
from core.errors import ConfigurationError
from core.ports.arrays import Floats
from core.ports.index import IndexProvider
from core.ports.model_store import ModelStore
from models.catalogue import Item
from models.log_event import LogEvent

# An index is behind by one, unless its loading keeps failing.
_N_KEPT = 3

_log = structlog.get_logger()


class FittedEmbedder:
    """An ``Embedder`` by the newest statistics that it knows; by plain ones while there are none.

    ``refresh`` may give it another name. It is called where an index looks for changes, before all else there, so that
    no run of embedding is halfway when that happens; the index then loads what has been embedded by the new name.
    """

    def __init__(
        self,
        store: ModelStore,
        dim: int,
        *,
        text_columns: Collection[str] = (),
        plain: CatalogueStatistics | None = None,
    ) -> None:
        """``plain``: what stands in for statistics while there are none."""
        self._store = store
        self._text_columns = tuple(text_columns)
        self._current = HashingEmbedder(dim, text_columns=self._text_columns, statistics=plain)
        self._former = {self._current.name: self._current}
        self._version: str | None = None
        self._refused: str | None = None

    @property
    def name(self) -> str:
        """That of the embedder in force."""
        return self._current.name

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._current.dim

    @property
    def statistics(self) -> CatalogueStatistics:
        """Those in force, plain ones while there are none."""
        return self._current.statistics

    async def embed(self, items: Sequence[Item]) -> Floats:
        """See ``core.ports.Embedder``."""
        return await self._current.embed(items)

    @property
    def is_current(self) -> bool:
        """Whether there are statistics, and of as many dimensions."""
        return self._version is not None and self._current.is_anchored

    def fitted(self, counting: CatalogueCount) -> HashingEmbedder:
        """The embedder that this would be by the statistics of all that was counted."""
        return HashingEmbedder.fitted(counting, self.dim, text_columns=self._text_columns)

    def named(self, name: str) -> HashingEmbedder:
        """The one in force, or one of those before it where that is what it is called."""
        return self._former.get(name, self._current)

    async def refresh(self) -> None:
        """Put the statistics in force that the store says. Raises what the store raises, and then changes nothing.

        Statistics that cannot be read are told of once, and the ones before stay; where there are none before them,
        ``ConfigurationError`` is raised.
        """
        version = await self._store.active_version(STATISTICS_KIND)
        if version is None or version in (self._version, self._refused):
            return
        try:
            embedder = await asyncio.to_thread(self._by, await self._load(version))
        except ConfigurationError as error:
            if self._version is None:
                raise
            self._refused = version
            _log.warning(LogEvent.MODEL_REFRESH_FAILED, kind=STATISTICS_KIND, error=str(error))
            return
        former = [*self._former.values(), embedder][-_N_KEPT:]
        self._former = {each.name: each for each in former}
        self._current, self._version = embedder, version
        n_items = embedder.statistics.n_items
        _log.info(LogEvent.MODEL_LOADED, kind=STATISTICS_KIND, version=version, n_items=n_items)

    def _by(self, statistics: CatalogueStatistics) -> HashingEmbedder:
        return HashingEmbedder(self.dim, text_columns=self._text_columns, statistics=statistics)

    async def _load(self, version: str) -> CatalogueStatistics:
        payload = await self._store.load(STATISTICS_KIND, version)
        if payload is None:
            raise ConfigurationError(
                f"the statistics of version {version!r} are gone: run `python main.py embed --refit`"
            )
        return await asyncio.to_thread(CatalogueStatistics.from_bytes, payload)


class WishesByIndex:
    """A ``WishEmbedder`` that embeds as the index in force was embedded: it may be behind ``embedder`` for a while."""

    def __init__(self, embedder: FittedEmbedder, index: IndexProvider) -> None:
        self._embedder, self._index = embedder, index

    async def embed_wish(self, text: str, item: Item) -> Floats:
        """See ``core.ports.WishEmbedder``."""
        return await self._embedder.named(self._index.current().embedder_name).embed_wish(text, item)
