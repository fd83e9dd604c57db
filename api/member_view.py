"""Members as the people who run a site look at them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field

from api.query import KNOWN_ALONE
from api.refusals import READ, away, documented, no_integer, too_large
from api.shapes import EXAMPLE_ITEM, IN_ORDER, IdInPath, ItemShape, Shape, next_offset
from core.member_view import KeptItem, KeptList, LikedItem, MemberView, MemberViewer
from core.ports.catalogue import ActiveMembers

MAX_MEMBERS = 500
MAX_OFFSET = 1_000_000


class ActiveMembersShape(Shape):
    """Members, those with the newest likes first; ``nextOffset`` is where the next page begins, null after the last."""

    member_ids: Sequence[int]
    next_offset: int | None

    model_config = ConfigDict(json_schema_extra={"example": {"memberIds": [7, 12, 3], "nextOffset": 3}})


class LikedShape(Shape):
    """An item that the member likes (``weight`` 1 is an ordinary like), and since when, where that is known."""

    item: ItemShape
    weight: float
    since: datetime | None

    @classmethod
    def of(cls, liked: LikedItem) -> "LikedShape":
        """``liked`` as answers show it."""
        return cls(item=ItemShape.of(liked.item), weight=round(liked.weight, 4), since=liked.since)


class KeptItemShape(Shape):
    """A recommended item; ``score`` runs from 0 to 100, ``criteria`` are such as ``genre:pop``, ``source:content``."""

    item: ItemShape
    score: float
    type: str
    reason: str
    criteria: Sequence[str]

    @classmethod
    def of(cls, kept: KeptItem) -> "KeptItemShape":
        """``kept`` as answers show it."""
        item = ItemShape.of(kept.item)
        return cls(item=item, score=kept.score, type=kept.kind, reason=kept.reason, criteria=kept.criteria)


class KeptListShape(Shape):
    """The newest recommendation, best first; ``fingerprint`` changes with anything that it was made of.

    ``locale`` is the language of its sentences; empty: not known.
    """

    items: Sequence[KeptItemShape] = Field(description=f"best first; {IN_ORDER}")
    generated_date: str
    provisional: bool
    fingerprint: str
    locale: str

    @classmethod
    def of(cls, kept: KeptList) -> "KeptListShape":
        """``kept`` as answers show it."""
        return cls(
            items=[KeptItemShape.of(each) for each in kept.items],
            generated_date=kept.generated_date,
            provisional=kept.provisional,
            fingerprint=kept.fingerprint,
            locale=kept.locale,
        )


class MemberShape(Shape):
    """What a member likes, newest first, has refused, and was recommended last."""

    member_id: int
    likes: Sequence[LikedShape]
    disliked: Sequence[ItemShape]
    newest: KeptListShape | None

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "memberId": 7,
                "likes": [{"item": EXAMPLE_ITEM, "weight": 1.0, "since": "2026-01-31T09:00:00Z"}],
                "disliked": [],
                "newest": None,
            }
        }
    )

    @classmethod
    def of(cls, view: MemberView) -> "MemberShape":
        """``view`` as answers show it."""
        return cls(
            member_id=view.member_id,
            likes=[LikedShape.of(each) for each in view.likes],
            disliked=[ItemShape.of(item) for item in view.disliked],
            newest=None if view.newest is None else KeptListShape.of(view.newest),
        )


def member_view_router(viewer: MemberViewer, members: ActiveMembers) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["members"], dependencies=[KNOWN_ALONE], responses=documented(READ) | away("mysql"))

    @router.get("/members/active", summary="Who liked something last", responses=too_large("limit", MAX_MEMBERS))
    async def active(
        limit: Annotated[int, Query(ge=1, le=MAX_MEMBERS)] = 50,
        offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
    ) -> ActiveMembersShape:
        """The members who liked something last; who likes something between two pages moves to the first one."""
        ids = await members.active_member_ids(limit + 1, offset)
        return ActiveMembersShape(member_ids=ids[:limit], next_offset=next_offset(limit, offset, offset + len(ids)))

    @router.get("/members/{member_id}", summary="What is known of a member", responses=no_integer("member_id"))
    async def member(member_id: IdInPath) -> MemberShape:
        """What is known of a member; of one whom nobody knows that is nothing."""
        return MemberShape.of(await viewer.member(member_id))

    return router
