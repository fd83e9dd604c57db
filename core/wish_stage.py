"""What the pipeline does with a wish: read it, make it searchable, and measure what was found against it."""

import asyncio
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import structlog

from config.wish_table import WishTable
from core.errors import DependencyUnavailable
from core.ports.arrays import Floats
from core.ports.catalogue import FeatureStore
from core.ports.index import ItemIndex, WishEmbedder
from core.retrieval import Retrieved
from core.wish import Sought, Wish, WishConfig, WishReader, measure
from models.job import JobContext
from models.log_event import LogEvent

NOT_EMBEDDED = "wish_not_embedded"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WishSearch:
    """A wish on its way through a job; ``flaw`` names what could not be done for it."""

    wish: Wish
    sought: Sought
    flaw: str | None = None


class WishStage:
    """Reads wishes by a profile's table, and asks for their vectors and for the features of what was found."""

    def __init__(
        self,
        table: WishTable,
        embedder: WishEmbedder,
        features: FeatureStore,
        config: WishConfig | None = None,
        *,
        timeout_s: float = 5.0,
    ) -> None:
        """``timeout_s`` bounds the embedding of a wish, which a provider may do over HTTP."""
        self._reader = WishReader(table)
        self._embedder = embedder
        self._features = features
        self._config = config or WishConfig()
        self._timeout_s = timeout_s
        told = f"{self._reader.version} {self._config}"
        self._version = blake2b(told.encode(), digest_size=6).hexdigest()

    @property
    def version(self) -> str:
        """Changes whenever the same wish may find something else."""
        return self._version

    async def read(self, context: JobContext | None, index: ItemIndex) -> Wish | None:
        """The wish of ``context``, or None where it asks for nothing that means anything here."""
        return self._reader.read(context, await index.genres()) if context else None

    async def search(self, wish: Wish) -> WishSearch:
        """``wish`` with its vector. One whose embedding fails is searched for by its tags alone."""
        if not wish.is_stated:
            return WishSearch(wish, Sought(vector=None, predicates=()))
        try:
            # What is refused would be near to itself: embeddings hardly know a "not".
            embedding = self._embedder.embed_wish(wish.sought or wish.text, wish.as_item())
            vector = await asyncio.wait_for(embedding, self._timeout_s)
        except (DependencyUnavailable, TimeoutError) as error:
            log.warning(LogEvent.WISH_NOT_EMBEDDED, error=str(error) or type(error).__name__)
            return WishSearch(wish, Sought(vector=None, predicates=wish.predicates), NOT_EMBEDDED)
        return WishSearch(wish, Sought(vector=_usable(vector), predicates=wish.predicates))

    async def measured(self, search: WishSearch, retrieved: Retrieved) -> Retrieved:
        """``retrieved`` with how far each item fulfils the wish; features are looked up where the wish names any."""
        wish, vector = search.wish, search.sought.vector
        is_featured = any(part.trait.features for part in wish.parts)
        ids = [facts.item_id for facts in retrieved.facts]
        features = await self._features.features(ids) if is_featured else {}
        likeness = None if vector is None else np.asarray(retrieved.vectors @ vector, np.float32)
        return replace(retrieved, wish=measure(wish, retrieved.facts, features, likeness, self._config))


def _usable(vector: Floats) -> Floats | None:
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / length, np.float32) if 0 < length < np.inf else None
