"""What there is to fit on: all that members like and do, with items that have vectors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime

import numpy as np

from config.catalogue_profile import Fitting
from core.collaborative import Doubles, Indices
from core.errors import ConfigurationError
from core.ports.arrays import Floats, Ids
from core.ports.collaborative import Interaction, InteractionLog
from core.ports.index import EmbeddingStore, IndexRows
from core.splits import Interactions
from training.collaborative_fit import Matrix
from training.interaction_files import ItemTable
from training.item_content import content_of

Tell = Callable[[str], None]

MIN_ITEMS = 5
_ENOUGH = Fitting()
_BATCHES_A_LINE = 100


@dataclass(frozen=True, slots=True)
class Observed:
    """Interactions with items that have vectors, and those items: ``item_ids`` int64 (n,), rising.

    ``vectors`` (n, dim), ``creators`` int64 (n,), -1 where unknown; ``content`` (n, n_features), unit rows.
    ``times_s`` and ``first_s`` float64 (n_pairs,): when each pair of ``data`` was last heard of, and when first, in
    seconds since 1970, -inf where nobody knows.
    """

    data: Interactions
    item_ids: Ids
    vectors: Floats
    creators: Indices
    content: Matrix
    times_s: Doubles
    first_s: Doubles

    @property
    def until_s(self) -> float | None:
        """The instant of the newest pair; None where no instant is known."""
        newest = float(self.times_s.max(initial=-np.inf))
        return newest if np.isfinite(newest) else None


async def observe(
    log: InteractionLog,
    embeddings: EmbeddingStore,
    embedder_name: str,
    *,
    least: Fitting = _ENOUGH,
    tell: Tell = lambda _: None,
) -> Observed:
    """Read everything.

    Raises ``ConfigurationError`` where there are no vectors, or less than ``least``, of which nothing can be learnt.
    """
    rows = await embeddings.load(embedder_name)
    if not len(rows.ids):
        raise ConfigurationError(f"no item has a vector of {embedder_name}: run `python main.py embed` first")
    tell(f"{len(rows.ids)} items with vectors")
    batches = []
    async for batch in log.stream():
        batches.append(_Pairs.of(batch))
        if len(batches) % _BATCHES_A_LINE == 0:
            tell(f"reading interactions: {sum(len(each.items) for each in batches)}")
    pairs = _Pairs.joined(batches)
    tell(f"{len(pairs.items)} interactions")
    pairs = pairs.of_items(rows.ids)
    _refuse_too_few(pairs, least)
    return _observed(pairs, rows)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Distinct pairs of ``members`` and ``items``, ids int64 (n,); the others float64 (n,)."""

    members: Ids
    items: Ids
    weights: Doubles
    times_s: Doubles
    first_s: Doubles

    @classmethod
    def of(cls, batch: Sequence[Interaction]) -> "_Pairs":
        members = np.array([each.member_id for each in batch], np.int64)
        items = np.array([each.item_id for each in batch], np.int64)
        weights = np.array([each.weight for each in batch], np.float64)
        times_s = _seconds([each.occurred_at for each in batch])
        return cls(members, items, weights, times_s, _seconds([each.first_at or each.occurred_at for each in batch]))

    @classmethod
    def joined(cls, parts: Sequence["_Pairs"]) -> "_Pairs":
        parts = [cls.of(()), *parts]
        columns = ([getattr(part, each.name) for part in parts] for each in fields(cls))
        return cls(*map(np.concatenate, columns))

    def of_items(self, item_ids: Ids) -> "_Pairs":
        known = np.isin(self.items, item_ids)
        return _Pairs(*(getattr(self, each.name)[known] for each in fields(self)))


def _seconds(instants: Sequence[datetime | None]) -> Doubles:
    return np.array([each.timestamp() if each else -np.inf for each in instants], np.float64)


def _refuse_too_few(pairs: _Pairs, least: Fitting) -> None:
    n_listeners = int((np.unique(pairs.members, return_counts=True)[1] >= least.min_items).sum())
    if n_listeners < least.min_listeners:
        raise ConfigurationError(
            f"too few listeners to fit on: {n_listeners} have {least.min_items} items or more, {least.min_listeners} "
            "are needed (`fitting` in the catalogue profile)"
        )
    if len(pairs.items) < least.min_interactions:
        raise ConfigurationError(
            f"too few interactions to fit on: there are {len(pairs.items)}, {least.min_interactions} are needed "
            "(`fitting` in the catalogue profile)"
        )


def _observed(pairs: _Pairs, rows: IndexRows) -> Observed:
    """Items that nobody has touched are left to content, which finds them by their vectors."""
    item_ids, items = np.unique(pairs.items, return_inverse=True)
    member_ids, users = np.unique(pairs.members, return_inverse=True)
    names = [str(item_id) for item_id in item_ids.tolist()]
    members = [str(member_id) for member_id in member_ids.tolist()]
    places = np.searchsorted(rows.ids, item_ids)
    return Observed(
        data=Interactions(users.astype(np.int64), items.astype(np.int64), pairs.weights, None, members, names),
        item_ids=item_ids,
        vectors=np.asarray(rows.vectors[places], np.float32),
        creators=_numbered([rows.creators[place] for place in places.tolist()]),
        content=content_of(_table(names, rows, places), {name: place for place, name in enumerate(names)}, len(names)),
        times_s=pairs.times_s,
        first_s=pairs.first_s,
    )


def _numbered(names: Sequence[str | None]) -> Indices:
    numbers: dict[str, int] = {}
    return np.array([-1 if name is None else numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _table(names: list[str], rows: IndexRows, places: Ids) -> ItemTable:
    """What the index knows of items, as a file of items would say it."""
    texts = {
        "genre": [" ".join(rows.genres[place]) for place in places.tolist()],
        "mood": [" ".join(rows.moods[place]) for place in places.tolist()],
        "language": [rows.languages[place] or "" for place in places.tolist()],
        "creator": [rows.creators[place] or "" for place in places.tolist()],
    }
    return ItemTable(names, texts, {})
