"""A member as people look at them: what they like, and what was recommended last, each with its item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import BaseModel, Field, ValidationError

from core.ports.catalogue import ChangingCatalogue, ListenerStore
from core.ports.results import ResultCache
from models.catalogue import Interest, Item


@dataclass(frozen=True, slots=True)
class LikedItem:
    """An item that the member likes or has: how strongly, and since when, where that is known."""

    item: Item
    weight: float
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptItem:
    """An item of the newest recommendation; ``score`` runs from 0 to 100.

    ``criteria`` say what speaks for it, as ``criterion:value``; those named ``source`` say what found it.
    """

    item: Item
    score: float
    kind: str
    reason: str
    criteria: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptList:
    """The newest recommendation; ``fingerprint`` differs where anything did that it was made of.

    ``locale`` is the language of its sentences, empty where it was kept by a version that did not say.
    """

    items: Sequence[KeptItem]
    generated_date: str
    provisional: bool
    fingerprint: str
    locale: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberView:
    """``likes`` newest first; ``newest`` is None where nothing is kept for the member."""

    member_id: int
    likes: Sequence[LikedItem]
    disliked: Sequence[Item]
    newest: KeptList | None


class _Row(BaseModel):
    recommendation_type: str = ""
    match_score: float = 0.0
    reason: str = ""
    matched_criteria: list[str] = Field(default_factory=list)


class _View(BaseModel):
    generated_date: str
    provisional: bool = False
    fingerprint: str = ""
    locale: str = ""
    candidates: list[dict[str, object]]


class MemberViewer:
    """Looks members up. Raises ``DependencyUnavailable``. ``id_field`` is what results call an item's id."""

    def __init__(
        self, *, listeners: ListenerStore, catalogue: ChangingCatalogue, results: ResultCache, id_field: str
    ) -> None:
        self._listeners = listeners
        self._catalogue = catalogue
        self._results = results
        self._id_field = id_field

    async def member(self, member_id: int) -> MemberView:
        """The member; of one who is unknown there is nothing to tell."""
        listener = await self._listeners.listener(member_id)
        view = _read(await self._results.cached_view(member_id))
        rows = self._rows(view)
        disliked = sorted(listener.disliked_ids)
        wanted = {*(each.item_id for each in listener.interests), *disliked, *rows}
        items = {item.item_id: item for item in await self._catalogue.complete_items(wanted)}
        return MemberView(
            member_id=member_id,
            likes=[_liked(items[each.item_id], each) for each in listener.interests if each.item_id in items],
            disliked=[items[item_id] for item_id in disliked if item_id in items],
            newest=None if view is None else _kept(view, rows, items),
        )

    def _rows(self, view: _View | None) -> Mapping[int, _Row]:
        """The candidates by item id, in their order."""
        found: dict[int, _Row] = {}
        for candidate in view.candidates if view else ():
            item_id = candidate.get(self._id_field)
            if isinstance(item_id, int):
                found[item_id] = _Row.model_validate(candidate)
        return found


def _read(view: bytes | None) -> _View | None:
    if view is None:
        return None
    try:
        return _View.model_validate_json(view)
    except ValidationError:
        return None  # another program wrote it


def _liked(item: Item, interest: Interest) -> LikedItem:
    at_s = interest.occurred_at_s
    return LikedItem(item, interest.weight, None if at_s is None else datetime.fromtimestamp(at_s, UTC))


def _kept(view: _View, rows: Mapping[int, _Row], items: Mapping[int, Item]) -> KeptList:
    kept = [
        KeptItem(
            item=items[item_id],
            score=row.match_score,
            kind=row.recommendation_type,
            reason=row.reason,
            criteria=row.matched_criteria,
        )
        for item_id, row in rows.items()
        if item_id in items
    ]
    return KeptList(
        items=kept,
        generated_date=view.generated_date,
        provisional=view.provisional,
        fingerprint=view.fingerprint,
        locale=view.locale,
    )
