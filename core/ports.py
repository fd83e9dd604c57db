"""What the core asks of the world. Each Protocol is a role; its docstring is the contract every adapter is tested by.

Where a method names no other error, the only one it raises is ``DependencyUnavailable``.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from core.errors import LanguageModelFailed
from models.catalogue import Item, ItemFacts, Listener
from models.event import Event
from models.job import Job, JobStatus
from models.notice import Notice
from models.source import SourceItem, SourceListener

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


# --- time ---


class Clock(Protocol):
    """The only source of time."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""


# --- the catalogue and its members ---


class Catalogue(Protocol):
    """Items as the source of truth holds them at this moment."""

    async def items(self, item_ids: Collection[int]) -> dict[int, Item]:
        """The active items among ``item_ids`` by id, in one round trip; unknown and inactive ids are left out.

        What only offline steps need, ``features`` and ``popularity``, is not looked up.
        """

    async def active_ids(self, item_ids: Collection[int]) -> set[int]:
        """Those of ``item_ids`` that exist and are active, in one round trip."""

    def stream(self, batch_size: int = 1000) -> AsyncIterator[Sequence[Item]]:
        """All active items, complete, in order of id and in batches: for offline steps, never for a job."""


@dataclass(frozen=True, slots=True)
class ItemsMark:
    """What was known of the items at some time: ``active_ids`` int64 (n,), rising, and when each was changed.

    ``dates`` int64 (n,): numbers that differ where the dates do. ``modified_at`` is the last of the dates, None where
    no item has one.
    """

    modified_at: datetime | None
    active_ids: Ids
    dates: Ids


@dataclass(frozen=True, slots=True)
class ItemChanges:
    """``changed``: active items that are new or may have changed; ``gone``: those that no longer are; ids, rising."""

    changed: Ids
    gone: Ids
    mark: ItemsMark


class ChangingCatalogue(Catalogue, Protocol):
    """A catalogue that tells what has changed: for steps that keep something of every item."""

    async def mark(self) -> ItemsMark:
        """What there is now."""

    async def changes(self, mark: ItemsMark) -> ItemChanges:
        """What is not as it was at ``mark``."""

    async def complete_items(self, item_ids: Collection[int]) -> Sequence[Item]:
        """The active items among ``item_ids``, complete as ``stream`` has them, in order of id."""


@dataclass(frozen=True, slots=True)
class SearchHit:
    """An item that a search by name found; ``score`` is comparable within one search only, higher is better."""

    item_id: int
    score: float


class ItemSearch(Protocol):
    """Finds items by what people type of their names."""

    async def search(self, text: str, n: int) -> Sequence[SearchHit]:
        """The best ``n``, best first; none where ``text`` holds no letter or digit.

        Raises ``DependencyUnavailable`` also while the names are still being read.
        """


class FeatureStore(Protocol):
    """What was measured of items."""

    async def features(self, item_ids: Collection[int]) -> dict[int, Mapping[str, float]]:
        """Numbers by name of those of ``item_ids`` that have any, in one round trip."""


class ListenerStore(Protocol):
    """What members like and have."""

    async def listener(self, member_id: int) -> Listener:
        """The member's likes, lists and dislikes, in one round trip; an unknown member has none."""


class ActiveMembers(Protocol):
    """Who is worth a refresh before they ask."""

    async def active_member_ids(self, limit: int) -> Sequence[int]:
        """At most ``limit`` members, those with the newest likes first, in one round trip."""


# --- embeddings and the index ---


class Embedder(Protocol):
    """Turns items into unit vectors."""

    @property
    def name(self) -> str:
        """Kind, version and dimension, such as ``hashing-2-256``: vectors of two names never mix."""

    @property
    def dim(self) -> int:
        """Length of the vectors."""

    async def embed(self, items: Sequence[Item]) -> Floats:
        """Unit vectors, float32, shape (len(items), dim), in order; an item without content gets the zero vector."""


class WishEmbedder(Protocol):
    """Turns what a listener wishes for into a vector among those of an ``Embedder``'s items."""

    async def embed_wish(self, text: str, item: Item) -> Floats:
        """A unit vector, float32 (dim,), of ``text`` in the listener's words and of ``item``, which would fulfil it.

        The zero vector where neither says anything that the embedder reads.
        """


@dataclass(frozen=True, slots=True)
class Hits:
    """What a search found, best first: ``ids`` int64 (n,), ``scores`` float32 (n,), cosines from -1 to 1."""

    ids: Ids
    scores: Floats


@dataclass(frozen=True, slots=True)
class Predicate:
    """A filter over catalogue attributes; empty fields do not filter."""

    genres: frozenset[str] = frozenset()
    moods: frozenset[str] = frozenset()
    languages: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """Whether it filters at all."""
        return bool(self.genres or self.moods or self.languages)


class ItemIndex(Protocol):
    """One immutable snapshot of all embeddings; a job uses one snapshot from its beginning to its end."""

    @property
    def version(self) -> str:
        """Changes whenever any vector or the set of items does."""

    @property
    def embedder_name(self) -> str:
        """The ``Embedder.name`` that made the vectors."""

    def __len__(self) -> int:
        """Number of items."""

    async def vectors(self, item_ids: Sequence[int]) -> tuple[Ids, Floats]:
        """The ids among ``item_ids`` that the index holds, in order, and their vectors, float32 (n, dim)."""

    async def facts(self, item_ids: Sequence[int]) -> list[ItemFacts]:
        """What the first stage ranks by, in the order of ``item_ids``, of which the index must hold every one."""

    async def search(
        self, queries: Floats, n: int, *, excluded: Collection[int] = (), predicate: Predicate | None = None
    ) -> list[Hits]:
        """For each of ``queries`` (float32 (k, dim), need not be unit vectors) the ``n`` items nearest by cosine.

        The same queries find the same, whatever else is searched for at the moment.
        """

    async def popular(self, n: int, *, excluded: Collection[int] = (), max_per_genre: int | None = None) -> Ids:
        """The ``n`` most popular items, int64, most popular first; at most so many of one (first) genre."""

    async def genres(self) -> frozenset[str]:
        """Every genre that an item has, as the catalogue or its index spells it; cheap when asked again."""


class IndexProvider(Protocol):
    """Holds the index in force; refreshing swaps it whole."""

    def current(self) -> ItemIndex:
        """The newest complete snapshot; raises ``DependencyUnavailable`` before the first one is loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexMark:
    """Up to where an ``EmbeddingStore`` was read: which store it was, its last change of a vector, and the items."""

    origin: int
    change_no: int
    items: ItemsMark


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRows:
    """What an index is built of: all active items that have a vector, in order of id.

    ``ids`` int64 (n,); ``vectors`` float32 or float16 (n, dim), unit length; ``popularity`` float32 (n,), 0 to 1;
    ``genres``, ``moods``, ``languages``, ``creators``: one entry an item. ``version`` identifies this content, and
    ``mark`` lets the store tell what has changed since.
    """

    ids: Ids
    vectors: Floats | npt.NDArray[np.float16]
    popularity: Floats
    genres: Sequence[tuple[str, ...]]
    moods: Sequence[tuple[str, ...]]
    languages: Sequence[str | None]
    creators: Sequence[str | None]
    version: str
    mark: IndexMark | None = None


@dataclass(frozen=True, slots=True)
class IndexChanges:
    """``rows``: new or changed items, with the version and the mark of what they lead to; ``removed``: ids, rising."""

    rows: IndexRows
    removed: Ids


class EmbeddingStore(Protocol):
    """The vectors that MySQL holds, beside the items' attributes that an index needs."""

    async def version(self, embedder_name: str) -> str:
        """Cheap: a string that changes when ``load`` would return something else."""

    async def load(self, embedder_name: str) -> IndexRows:
        """Everything of that embedder."""

    async def changes(self, embedder_name: str, mark: IndexMark, max_items: int) -> IndexChanges | None:
        """What is not as it was at ``mark``, where that is at most ``max_items`` items; None: ``load`` it all.

        An item may be among them that is as it was.
        """

    async def pack(self, embedder_name: str) -> int:
        """Bring the copy that ``load`` reads fastest up to date; how many vectors that wrote."""

    async def content_hashes(self, embedder_name: str, item_ids: Collection[int] | None = None) -> dict[int, bytes]:
        """The hash of the content that each stored vector (those of ``item_ids``) was made from, by item id."""

    async def save(self, embedder_name: str, ids: Ids, vectors: Floats, content_hashes: Sequence[bytes]) -> None:
        """Insert or replace vectors, float32 (len(ids), dim), in one transaction."""

    async def delete(self, embedder_name: str, item_ids: Collection[int]) -> None:
        """Remove the vectors of items that are gone."""


# --- collaborative signals ---


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionWeights:
    """What each source's z-score weighs in the first stage; chosen on validation by ``main.py fit``."""

    content: float = 1.0
    collaborative: float = 1.0
    popularity: float = 0.1
    same_creator: float = 0.0


class CollaborativeSource(Protocol):
    """One immutable fitted model, for listeners whom it need not know."""

    @property
    def version(self) -> str:
        """The version under which the model is stored."""

    @property
    def weights(self) -> FusionWeights:
        """What ``fit`` found to be the best mixture on its validation split."""

    def listener(self, likes: Mapping[int, float]) -> Floats | None:
        """The vector, float32 (dim,), of one who likes these items by these weights; None where it knows none."""

    async def search(self, listener: Floats, n: int, *, excluded: Collection[int] = ()) -> Hits:
        """The ``n`` items of the highest inner product with ``listener``; scores are those products."""

    def scores(self, listener: Floats, item_ids: Ids) -> Floats:
        """The scores of ``item_ids``, float32 (n,), on the scale of ``search``; NaN where an item is unknown."""


class CollaborativeProvider(Protocol):
    """Holds the model in force; refreshing swaps it whole."""

    def current(self) -> CollaborativeSource | None:
        """The newest model, or None while there is none: a fresh site has nothing to fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """A member's positive signal on an item: ``weight`` above 0, 1 being an ordinary like.

    ``occurred_at``: its last sign; ``first_at``: the first that there was of the two, None where that is the same.
    """

    member_id: int
    item_id: int
    weight: float
    occurred_at: datetime | None = None
    first_at: datetime | None = None


class InteractionLog(Protocol):
    """What members did, for fitting."""

    def stream(self, batch_size: int = 10_000) -> AsyncIterator[Sequence[Interaction]]:
        """All positive signals on active items, in batches; of what a member takes back or dislikes, nothing."""


# --- fitted models ---


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


# --- filling a catalogue of ours ---


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


# --- the language model ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One question: static instructions, the data of this job, and the JSON schema of the answer."""

    system: str
    user: str
    schema_name: str
    schema: Mapping[str, object]
    max_output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The model's answer as text that should be JSON by the prompt's schema, and what it used.

    ``cached_tokens`` are those of ``prompt_tokens`` that the provider had in its cache. ``n_requests`` were sent for
    it, in ``n_calls`` of models, at ``cost_usd``; None where the price of one of them is not known.
    """

    text: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    n_requests: int = 1
    n_calls: int = 1
    cost_usd: float | None = None


class LanguageModel(Protocol):
    """Asks an LLM, within its time limit."""

    def name(self, *, deep: bool) -> str:
        """The model that ``complete`` would ask."""

    async def complete(self, prompt: Prompt, *, deep: bool = False) -> Completion:
        """The answer.

        Raises ``LanguageModelFailed`` alone: ``timeout``, ``rate_limited``, ``quota_exhausted``, ``unavailable``,
        ``refused`` (by the model), ``filtered`` (by the provider), ``truncated`` or ``malformed``; with
        ``partial_text`` where a part of the answer came.
        """


class TimedLanguageModel(LanguageModel, Protocol):
    """A ``LanguageModel`` whose single calls may be given less time than it takes at the most."""

    async def complete(
        self, prompt: Prompt, *, deep: bool = False, within_s: float | None = None, use: "CallUse | None" = None
    ) -> Completion:
        """See ``LanguageModel.complete``. However the call ends, cancelled too, ``use`` then says what it used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Leave for one call of ``model``, each request of which uses at most so much."""

    model: str
    token: str
    max_prompt_tokens: int
    max_completion_tokens: int


@dataclass(slots=True, kw_only=True)
class CallUse:
    """What a call has used so far; it grows while the call is made.

    Tokens are those that the provider told of. ``n_untold`` of the ``n_requests`` may have to be paid, and nothing is
    known of what they used.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    n_requests: int = 0
    n_untold: int = 0


class CallGuard(Protocol):
    """Says before each call whether it may be made, and learns of its end; one opinion among all workers."""

    async def admit(
        self, model: str, *, max_prompt_tokens: int, max_completion_tokens: int, patience_s: float
    ) -> Admission:
        """Leave for one call, for which there may be a wait of up to ``patience_s``; every one is to be settled.

        Raises ``LanguageModelFailed`` alone: ``breaker_open``, ``over_budget`` or ``over_spend``.
        """

    async def settle(self, admission: Admission, outcome: str, use: CallUse) -> float | None:
        """What the call cost in USD, None where that is not known; raises nothing.

        ``outcome`` is ``ok``, ``cancelled`` or the reason of ``LanguageModelFailed``.
        """


# --- batches: many questions in one file, answered within a day at a lower price ---


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


# --- results ---


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultDocuments:
    """The finished documents, as the JSON bytes that Redis will hold; ``shown_ids``: the items of the groups."""

    result: bytes
    cached_view: bytes
    preference: bytes
    degraded: bool = False
    shown_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionalDocuments:
    """What may stand in for a result while the LLM is asked, as JSON.

    A type of its own, so that it can neither be kept as an answer nor end a job.
    """

    result: bytes
    cached_view: bytes


class AnswerCache(Protocol):
    """Finished answers by fingerprint, so that an unchanged listener costs nothing."""

    async def get(self, fingerprint: str) -> ResultDocuments | None:
        """The answer stored under ``fingerprint``, or None."""

    async def put(self, fingerprint: str, documents: ResultDocuments, job: Job) -> None:
        """Store what was found for ``job``; degraded answers live shorter, those of forgotten members not at all."""

    def single_flight(self, fingerprint: str) -> AbstractAsyncContextManager[None]:
        """Hold ``fingerprint`` alone among all tasks and workers; others wait, and look again when they enter.

        A holder that dies lets go within a few seconds by itself.
        """


class Claim(StrEnum):
    """What a worker may do with a job that was delivered to it."""

    GRANTED = "granted"
    GRANTED_TOO_OFTEN = "granted_too_often"
    SUCCEEDED_BEFORE = "succeeded_before"
    FAILED_BEFORE = "failed_before"
    RUNNING_ELSEWHERE = "running_elsewhere"
    DEAD_LETTER_DUE = "dead_letter_due"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job as its poller sees it; ``result`` is the JSON document where the job succeeded."""

    status: JobStatus
    progress: int
    fields: Mapping[str, str] = field(default_factory=dict)
    result: bytes | None = None


class ResultCache(Protocol):
    """The Redis keys that the backend reads (CONTRACT.md 2). Every method is atomic; status never goes backwards."""

    async def mark_queued(self, job: Job) -> None:
        """``queued`` with ``submittedAt``, for a job that we publish, unless it already has a status."""

    async def claim(self, job: Job, *, token: str, replay: int = 0) -> Claim:
        """Make the job ``running`` and leased to ``token``, if it is neither finished nor leased to another.

        A failed job is granted again only on a ``replay`` (1 for the first, 0 for none) of a higher number than any
        that was granted before: what is sent twice is run once. ``DEAD_LETTER_DUE`` is a failed job whose message may
        never have reached the dead-letter queue. ``GRANTED_TOO_OFTEN`` is a grant as well, of a job whose workers die
        or fall silent each time: it is to be given up. A job whose ``idempotency_key`` another job of the member
        holds gets that job's result and ``SUCCEEDED_BEFORE`` once that one succeeded, and ``RUNNING_ELSEWHERE``
        while it runs. Raises ``MemberForgotten`` where the member was, after the job was asked for.
        """

    async def renew(self, tokens: Mapping[str, str]) -> None:
        """Prolong the leases of ``{job_id: token}``; a lease that is another's or gone is left alone."""

    async def release(self, job: Job, *, token: str) -> None:
        """Give the lease up without a final status, so that a retry may claim at once; the status stays."""

    async def report_progress(self, job: Job, progress: int) -> None:
        """Raise ``progress`` (0..100) of a running job; it never falls."""

    async def succeed(self, job: Job, documents: ResultDocuments, *, token: str) -> bool:
        """Write result, ``latest:``, ``recommend:`` and ``preference:``, then ``succeeded``, and end the lease.

        A job that already succeeded is left as it is; so is one that failed, and then the answer is False: it has its
        end, and its message is on the way to the dead-letter queue. An older job of the member writes its own result,
        and leaves ``latest:`` and ``recommend:`` to the newer one. What the member has refused meanwhile is left out.
        Raises ``MemberForgotten``, and nothing is written, where the member was after the job was asked for.
        """

    async def fail(
        self, job_id: str, *, code: str, message: str, token: str | None = None, dead_letter: bool = False
    ) -> bool:
        """``failed`` with ``error.code`` and ``error.message``; ends the lease. False where nothing was written.

        That is so where the job has ended before, or another worker holds it.

        Without a ``token`` nothing happens while the job runs: who asks has not claimed it. With ``dead_letter`` its
        message is yet to be dead-lettered, and the lease stays: until ``dead_lettered`` is called, a claim is
        ``RUNNING_ELSEWHERE``, and once the lease is over ``DEAD_LETTER_DUE`` to one caller, who holds it then.
        """

    async def dead_lettered(self, job_id: str, *, token: str) -> None:
        """The message of a failed job is safe in the dead-letter queue; ends the lease."""

    async def job(self, job_id: str) -> JobView | None:
        """What a poller sees, or None."""

    async def cached_view(self, member_id: int) -> bytes | None:
        """``recommend:{memberId}``, JSON, or None."""


class ProvisionalResults(Protocol):
    """What ``latest:`` and ``recommend:`` hold for a member who has no result, while a job of theirs runs.

    ``ResultCache.succeed`` puts the result in its place, unless what stands there is of a newer job; nothing else of a
    job is touched.
    """

    async def wants_provisional(self, job: Job, *, token: str) -> bool:
        """Whether ``show_provisional`` would show anything now."""

    async def show_provisional(self, job: Job, documents: ProvisionalDocuments, *, token: str) -> bool:
        """Show ``documents`` for a few minutes, and say so.

        False, and nothing is done, where the job does not run under ``token``, or the member has a result or the
        provisional documents of a newer job.
        """


# --- messages ---


class JobPublisher(Protocol):
    """Puts jobs of ours on the queue."""

    async def publish_job(self, job: Job, *, batch: bool = False) -> None:
        """Return once the broker has confirmed it; raises ``PublishRefused``."""


class EventPublisher(Protocol):
    """Puts events of ours on their queue."""

    async def publish_event(self, event: Event) -> None:
        """Return once the broker has confirmed it; raises ``PublishRefused``."""


# --- seeing ---


class Observer(Protocol):
    """Counts what happens, with bounded labels; never a member's or an item's id."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time one stage of the pipeline: ``listener``, ``retrieve``, ``hydrate``, ``rank``, ``rerank``, ``save``."""

    def unknown_items(self, n: int) -> None:
        """Liked ids that the index does not hold."""

    def answer_cache(self, *, hit: bool) -> None:
        """A look-up by fingerprint."""

    def llm_call(
        self,
        *,
        model: str,
        outcome: str,
        seconds: float,
        prompt_tokens: int,
        completion_tokens: int,
        cached_tokens: int = 0,
    ) -> None:
        """One call of ``model``; ``outcome`` is ``ok`` or the reason of ``LanguageModelFailed``."""

    def llm_retried(self, cause: str) -> None:
        """A further request of the same call: after a failure, or without what the endpoint refused."""

    def llm_dropped(self, cause: str, n: int) -> None:
        """Parts of an LLM answer that could not be used."""

    def degraded(self, reason: str) -> None:
        """A result made without the LLM's judgement although it was asked for."""

    def answered(self, *, arm: str, kind: str, seconds: float) -> None:
        """A job of ``arm`` (``core.llm_share.Arm``) was answered: ``new``, ``degraded`` or ``reused``."""


class Notices(Protocol):
    """Tells the people who run a site, by whatever ways they have set; by none is fine too. Neither method raises."""

    async def tell(self, notice: Notice) -> None:
        """Send it and come back, unless one of its kind was sent a short while ago."""

    def tell_soon(self, notice: Notice) -> None:
        """The same in the background, for who must not wait; cheap enough to be called for every job."""


class HealthCheck(Protocol):
    """Looks at one dependency, cheaply: it runs at every probe."""

    async def __call__(self) -> str | None:
        """None where all is well, else a sentence that warns; raises ``DependencyUnavailable`` where it is not."""


ProgressReporter = Callable[[int], Awaitable[None]]
RankedReporter = Callable[[Callable[[], Awaitable[ProvisionalDocuments]]], Awaitable[None]]
"""Told that there is a ranked list, before the LLM is asked; makes its documents of it where it has a use for them."""


class Recommender(Protocol):
    """Makes the recommendation of one job."""

    async def recommend(
        self, job: Job, report: ProgressReporter, on_ranked: RankedReporter | None = None
    ) -> ResultDocuments:
        """The finished documents; ``report`` is told how far it is (0..100), and costs nothing when Redis is away.

        ``on_ranked`` is called at most once, and only where an LLM is about to be asked.
        What the LLM does wrong degrades the documents and raises nothing.
        """
