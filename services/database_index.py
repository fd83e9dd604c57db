"""The index inside the database: for workers too small to hold all embeddings.

What it may find is chosen by the database (``candidate_queries``), and compared exactly here.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

import numpy as np
import sqlalchemy as sa
import structlog

from config.catalogue_profile import CatalogueProfile
from core.errors import ConfigurationError, DependencyUnavailable, SongsAIError
from core.ports.arrays import Floats, Ids
from core.ports.clock import Clock
from core.ports.index import Embedder, EmbeddingStore, Hits, Predicate
from models.catalogue import ItemFacts
from models.log_event import LogEvent
from services.candidate_queries import (
    Query,
    Row,
    as_unit_vectors,
    by_distance,
    by_signs,
    by_vector_index,
    set_effort,
    with_vectors,
)
from services.catalogue import parts
from services.database import Database
from services.embedding_blocks import has_length
from services.index_watch import IndexObserver, StoreWatch, refresh_for_ever, tell_of
from services.item_codes import MIN_WIDTH, NATIVE, ItemCodes, Prepared, has_vector_index
from services.recall_sample import AT
from services.schema import LazyTables, ProfileTables, embedding, item_code

# As the index in memory does, so that equal vectors tie.
_SCORE_DECIMALS = 6
_MAX_EFFORT = 10_000
# Below this MariaDB compares all vectors sooner than it walks its graph.
_MIN_GRAPH = 5000
# With a predicate: what it keeps may all be far away, and then signs tell less. Of 10,000 far ones the foremost 3,000
# hold .98 of the 200 nearest, 2,000 but .95.
_MIN_FILTERED = 3000
# Asked for besides: what was deactivated a moment ago is left out.
_SPARE = 16
_NEEDED = "it takes SELECT, INSERT, DELETE, CREATE and DROP on the database"
_NOTHING: Final = Hits(ids=np.zeros(0, dtype=np.int64), scores=np.zeros(0, dtype=np.float32))

_log = structlog.get_logger()


class DatabaseItemIndex:
    """An ``ItemIndex`` in MySQL or MariaDB. Ties go to the smaller id, so that results repeat.

    It is no snapshot: what another worker brought up to date meanwhile is found as it is by now, and an item that was
    deactivated is gone at once. ``version`` and the number of items are as of when this worker looked.
    """

    def __init__(
        self,
        database: Database,
        profile: CatalogueProfile,
        tables: ProfileTables,
        prepared: Prepared,
        version: str,
    ) -> None:
        self._database, self._profile, self._tables = database, profile, tables
        self._prepared, self._version = prepared, version
        self._genre_names: frozenset[str] | None = None

    @property
    def version(self) -> str:
        """Changes whenever any vector or the set of items does."""
        return self._version

    @property
    def embedder_name(self) -> str:
        """The ``Embedder.name`` that made the vectors."""
        return self._prepared.embedder_name

    @property
    def kind(self) -> str:
        """How it searches: ``sign_codes`` or ``native``."""
        return self._prepared.generation.method

    @property
    def recall(self) -> float:
        """Recall@200 against an exact scan, on a sample of queries."""
        return self._prepared.generation.recall

    @property
    def server(self) -> str:
        """The database server's name for its version."""
        return self._prepared.server

    @property
    def why(self) -> str:
        """Why it searches so, and how wide, in words."""
        if self.kind == NATIVE:
            return f"since {self.server} has a vector index; searches for {AT} keep {self.width:,} candidates at hand"
        if self._prepared.denied:
            reason = f"the account may not use the vector index of {self.server} ({self._prepared.denied}; {_NEEDED})"
        else:
            asked = has_vector_index(self.server)
            reason = "signs were asked for, not the vector index" if asked else f"{self.server} has no vector index"
        return f"since {reason}; searches for {AT} compare {self.width:,} candidates exactly"

    @property
    def width(self) -> int:
        """How many candidates a search for 200 looks at."""
        return self._width(AT)

    def __len__(self) -> int:
        return self._prepared.n_items

    async def vectors(self, item_ids: Sequence[int]) -> tuple[Ids, Floats]:
        """The ids among ``item_ids`` that the index holds, in order, and their vectors, float32 (n, dim)."""
        query = (
            sa.select(item_code.c.item_id, embedding.c.vector_bytes)
            .join(embedding, embedding.c.item_id == item_code.c.item_id)
            .where(embedding.c.embedder == self._prepared.embedder_name, has_length(self._prepared.dim))
        )
        stored = {row.item_id: row.vector_bytes for row in await self._rows_of(query, item_ids)}
        known = [item_id for item_id in item_ids if item_id in stored]
        vectors = as_unit_vectors([stored[item_id] for item_id in known], self._prepared.dim)
        return np.array(known, dtype=np.int64), vectors

    async def facts(self, item_ids: Sequence[int]) -> list[ItemFacts]:
        """What the first stage ranks by, in the order of ``item_ids``; of what is gone by now, the id alone."""
        source, columns = self._profile.item, self._tables.item.columns
        names = {"creator": source.creator, "genre": source.genre, "mood": source.mood}
        query = sa.select(
            item_code.c.item_id,
            item_code.c.popularity,
            *((columns[name] if name else sa.null()).label(label) for label, name in names.items()),
        ).join(self._tables.item, columns[source.id] == item_code.c.item_id)
        found = {row.item_id: _facts(row) for row in await self._rows_of(query, item_ids)}
        return [found.get(item_id) or ItemFacts(item_id) for item_id in item_ids]

    async def search(
        self, queries: Floats, n: int, *, excluded: Collection[int] = (), predicate: Predicate | None = None
    ) -> list[Hits]:
        """For each of ``queries`` (float32 (k, dim), of any length) the ``n`` items nearest to it by cosine.

        A query without direction is near nothing.
        """
        lengths = np.linalg.norm(queries, axis=1)
        usable = np.flatnonzero((lengths > 0) & (lengths < np.inf)).tolist()
        hits = [_NOTHING] * len(queries)
        if n <= 0 or not usable or not len(self):
            return hits
        left_out = sorted(set(excluded))
        async with self._database.connect(n_round_trips=2 + 2 * len(usable)) as connection:
            if self.kind == NATIVE:
                await connection.execute(set_effort(self._width(n)))
            for place in usable:
                unit = np.asarray(queries[place] / lengths[place], dtype=np.float32)
                for candidates in self._candidates(unit, n, left_out, predicate):
                    rows = (await connection.execute(candidates)).all()
                    if len(rows) >= n:
                        break
                hits[place] = self._compared(unit, rows, n)
        return hits

    def _candidates(self, unit: Floats, n: int, left_out: list[int], predicate: Predicate | None) -> list[Query]:
        """Statements to be sent until one gives enough."""
        generation = self._prepared.generation
        if generation.coder:
            question, width = generation.coder.question(unit), self._width(n)
            if predicate:
                width = max(width, _MIN_FILTERED * max(n, AT) // AT)
            return [self._with_vectors(by_signs(generation.number, question, width, left_out, predicate))]
        exact = self._with_vectors(by_distance(generation.number, unit, n + _SPARE, left_out, predicate))
        if predicate or len(self) < _MIN_GRAPH:
            return [exact]
        # The graph knows no selection: what is left out is asked for besides, and dropped.
        walked = by_vector_index(generation.number, unit, n + len(left_out) + _SPARE)
        return [self._with_vectors(walked, left_out), exact]

    def _with_vectors(self, found: Query, left_out: Collection[int] = ()) -> Query:
        prepared = self._prepared
        return with_vectors(found, self._tables, self._profile, prepared.embedder_name, prepared.dim, left_out)

    def _width(self, n: int) -> int:
        """In proportion: to what is asked for, and to how many items have come since the width was found."""
        generation = self._prepared.generation
        grown = max(1.0, len(self) / max(generation.n_items, 1)) if generation.coder else 1.0
        width = round(generation.width * grown * max(n, AT) / AT)
        return max(width, MIN_WIDTH, 2 * n) if generation.coder else min(width, _MAX_EFFORT)

    def _compared(self, unit: Floats, rows: Sequence[Row], n: int) -> Hits:
        ids = np.array([row.item_id for row in rows], dtype=np.int64)
        vectors = as_unit_vectors([row.vector_bytes for row in rows], self._prepared.dim)
        scores = np.clip(np.round(vectors @ unit, _SCORE_DECIMALS), -1, 1)
        order = np.lexsort((ids, -scores))[:n]
        return Hits(ids=ids[order], scores=scores[order].astype(np.float32))

    async def popular(self, n: int, *, excluded: Collection[int] = (), max_per_genre: int | None = None) -> Ids:
        """The ``n`` most popular items, int64, most popular first; at most so many of one (first) genre.

        Items without a genre are not limited.
        """
        left_out = set(excluded)
        n_looked_at = 4 * (max(n, 0) + len(left_out))
        while n > 0:
            rows = await self._most_popular(n_looked_at)
            chosen = _chosen(rows, left_out, max_per_genre)[:n]
            if len(chosen) == n or len(rows) < n_looked_at:
                return np.array(chosen, dtype=np.int64)
            n_looked_at *= 4
        return np.zeros(0, dtype=np.int64)

    async def genres(self) -> frozenset[str]:
        """Every genre that an item has, casefolded; looked up once."""
        if self._genre_names is None:
            query = (
                sa.select(item_code.c.genres)
                .distinct()
                .where(item_code.c.generation == self._prepared.generation.number)
            )
            async with self._database.connect() as connection:
                found = (await connection.scalars(query)).all()
            self._genre_names = frozenset(genre for text in found for genre in parts(text))
        return self._genre_names

    async def _most_popular(self, n: int) -> Sequence[Row]:
        item_id = self._tables.item.columns[self._profile.item.id]
        query = (
            sa.select(item_code.c.item_id, item_code.c.genres)
            .join(self._tables.item, item_id == item_code.c.item_id)
            .where(item_code.c.generation == self._prepared.generation.number, self._tables.is_active())
            .order_by(item_code.c.popularity.desc(), item_code.c.item_id)
            .limit(n)
        )
        async with self._database.connect() as connection:
            return (await connection.execute(query)).all()

    async def _rows_of(self, query: Query, item_ids: Collection[int]) -> Sequence[Row]:
        if not len(item_ids):
            return ()
        of_these = query.where(
            item_code.c.generation == self._prepared.generation.number, item_code.c.item_id.in_(list(set(item_ids)))
        )
        async with self._database.connect() as connection:
            return (await connection.execute(of_these)).all()


def _facts(row: Row) -> ItemFacts:
    creator = str(row.creator).strip() or None if row.creator is not None else None
    return ItemFacts(row.item_id, creator, parts(row.genre), parts(row.mood), float(row.popularity))


def _chosen(rows: Sequence[Row], left_out: Collection[int], max_per_genre: int | None) -> list[int]:
    taken: dict[str, int] = {}
    chosen = []
    for row in rows:
        genre = row.genres.split(",", 1)[0]
        if row.item_id in left_out:
            continue
        if genre and max_per_genre is not None:
            if taken.get(genre, 0) >= max_per_genre:
                continue
            taken[genre] = taken.get(genre, 0) + 1
        chosen.append(row.item_id)
    return chosen


class RefreshingDatabaseIndex:
    """An ``IndexProvider`` that keeps what is searched inside the database up to date with the stored embeddings.

    Any number of workers may do so at once: one at a time does the work, the others find nothing left to do.
    ``before_load`` runs at the first refresh and where the store holds something else than before, ``before_look``
    before each look at the store.
    """

    def __init__(
        self,
        database: Database,
        profile: CatalogueProfile,
        store: EmbeddingStore,
        embedder: Embedder,
        *,
        refresh_s: float,
        clock: Clock,
        observer: IndexObserver,
        before_load: Callable[[], Awaitable[object]] | None = None,
        before_look: Callable[[], Awaitable[object]] | None = None,
        method: str | None = None,
    ) -> None:
        """``method`` is ``native`` or ``sign_codes``, by default the best that the server can.

        Raises ``ConfigurationError`` where the database is SQLite.
        """
        if database.name != "mysql":
            raise ConfigurationError(
                "RETRIEVAL=database: searching needs MySQL or MariaDB, and DATABASE_URL names SQLite;"
                " set RETRIEVAL=memory, or another DATABASE_URL"
            )
        self._database, self._profile, self._store, self._embedder = database, profile, store, embedder
        self._tables = LazyTables(database, profile)
        self._codes = ItemCodes(database, profile, embedder, self._tables)
        self._refresh_s, self._clock, self._observer = refresh_s, clock, observer
        self._method = method
        self._index: DatabaseItemIndex | None = None
        self._watch = StoreWatch(store, embedder, clock=clock, before_load=before_load, before_look=before_look)

    def current(self) -> DatabaseItemIndex:
        """The index as last looked at; raises ``DependencyUnavailable`` before the first ``load``."""
        if self._index is None:
            raise DependencyUnavailable("index", "not loaded yet")
        return self._index

    @property
    def age_s(self) -> float | None:
        """Seconds since the index was last known to hold what the store holds; None before the first load."""
        return self._watch.age_s

    async def load(self) -> None:
        """Bring the tables that are searched up to date. Raises what the database raises, and then changes nothing."""
        began_at_s = self._clock.monotonic_s()
        await self._watch.begin()
        # Asked first: what changes meanwhile is looked at again, rather than missed.
        version = await self._store.version(self._embedder.name)
        prepared = await self._codes.prepare(self._method)
        tables = await self._tables.get()
        index = DatabaseItemIndex(self._database, self._profile, tables, prepared, version)
        self._index = index
        self._watch.agreed(began_at_s)
        seconds = self._clock.monotonic_s() - began_at_s
        tell_of(index, LogEvent.INDEX_LOADED, self._observer, seconds=seconds, width=index.width, why=index.why)

    async def refresh(self) -> None:
        """Load again if the store holds something else by now. Raises what the store and ``before_load`` raise."""
        began_at_s = self._clock.monotonic_s()
        if await self._watch.sees_a_change(self._index):
            await self.load()
        else:
            self._watch.agreed(began_at_s)

    async def run(self) -> None:
        """Refresh every ``refresh_s`` seconds until cancelled; while the store is away the index stays as it is.

        An empty index is refreshed at once: nobody can be answered until there are items.
        """
        empty = self._index is not None and not len(self._index)
        await refresh_for_ever(self.refresh, self._refresh_s, self._tell_of_failure, at_once=empty)

    def _tell_of_failure(self, error: SongsAIError) -> None:
        _log.warning(LogEvent.INDEX_REFRESH_FAILED, error=str(error), age_s=self.age_s)
