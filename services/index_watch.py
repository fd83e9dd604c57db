"""What every kind of index and model needs to follow its store: when to look, what to tell, and what to go on with."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from core.errors import SongsAIError
from core.ports.clock import Clock
from core.ports.index import Embedder, EmbeddingStore, ItemIndex
from models.log_event import LogEvent
from services.overlaid_index import MeasuredIndex

_log = structlog.get_logger()

_LEAST_SHARE = 0.2


class IndexObserver(Protocol):
    """Is told which index is in force."""

    def index_loaded(self, *, version: str, embedder_name: str, n_items: int, recall: float) -> None:
        """Another index is in force from now on; ``recall`` is its own, at 200, on a sample."""


class StoreWatch:
    """Looks whether the store of embeddings holds something else than an index, and knows when they last agreed.

    ``before_load`` runs at the first look, and where the store holds something else, before that is loaded: new items
    get their vectors there. ``before_look`` runs before each look: there the embedder may get another name.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        embedder: Embedder,
        *,
        clock: Clock,
        before_load: Callable[[], Awaitable[object]] | None,
        before_look: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._clock = clock
        self._before_load, self._before_look = before_load, before_look
        self._is_prepared = False
        self._agreed_at_s: float | None = None

    @property
    def age_s(self) -> float | None:
        """Seconds since the index was last known to hold what the store holds; None before it first was."""
        return None if self._agreed_at_s is None else self._clock.monotonic_s() - self._agreed_at_s

    def agreed(self, at_s: float) -> None:
        """The index held what the store did at ``at_s`` of the clock."""
        self._agreed_at_s = at_s

    async def begin(self) -> None:
        """What is to be done before looking; raises what ``before_look`` raises."""
        if self._before_look:
            await self._before_look()

    async def sees_a_change(self, index: ItemIndex | None) -> bool:
        """Whether the store holds something else than ``index``. Raises what the store and ``before_load`` raise."""
        await self.begin()
        changed = await self._has_changed(index)
        if self._before_load and (changed or not self._is_prepared):
            await self._before_load()
            self._is_prepared, changed = True, await self._has_changed(index)
        return changed

    async def _has_changed(self, index: ItemIndex | None) -> bool:
        if index is None or index.embedder_name != self._embedder.name:
            return True
        return await self._store.version(self._embedder.name) != index.version


def tell_of(
    index: MeasuredIndex, event: LogEvent, observer: IndexObserver, *, seconds: float, **further: object
) -> None:
    """Tell the observer and the log that ``index`` is in force, ``seconds`` after it was begun."""
    observer.index_loaded(
        version=index.version, embedder_name=index.embedder_name, n_items=len(index), recall=index.recall
    )
    _log.info(
        event,
        version=index.version,
        embedder=index.embedder_name,
        n_items=len(index),
        kind=index.kind,
        recall=round(index.recall, 4),
        seconds=round(seconds, 3),
        **further,
    )


async def refresh_for_ever(
    refresh: Callable[[], Awaitable[None]],
    refresh_s: float,
    tell: Callable[[SongsAIError], None],
    *,
    at_once: bool = False,
) -> None:
    """Refresh every ``refresh_s`` seconds until cancelled; a refresh that fails is told of, and the next one comes.

    From the beginning of one to that of the next; after one that took as long or longer, a fifth of it is waited.
    Before the first one nothing is waited where ``at_once``.
    """
    loop, pause_s = asyncio.get_running_loop(), 0.0 if at_once else refresh_s
    while True:
        await asyncio.sleep(pause_s)
        began_s = loop.time()
        try:
            await refresh()
        except SongsAIError as error:
            tell(error)
        pause_s = max(refresh_s - (loop.time() - began_s), _LEAST_SHARE * refresh_s)
