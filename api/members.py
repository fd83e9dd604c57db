"""What is kept for members."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from api.contract_shapes import EXAMPLE_CANDIDATE, EXAMPLE_GROUP, Json
from api.query import KNOWN_ALONE
from api.refusals import READ, away, documented, not_found, too_large
from api.shapes import IN_ORDER, IdInPath, Shape, next_offset
from core.ports.results import ResultCache

MAX_PAGE = 500


class _KeptView(BaseModel):
    """What is kept for the member in ``recommend:{memberId}``."""

    generated_date: str
    provisional: bool = False
    groups: list[Json]
    candidates: list[Json]


class RecommendationsShape(Shape):
    """A member's newest recommendation; groups and candidates stand in it as the backend reads them.

    ``candidates`` are those of this page, ``nextOffset`` is where the next one begins, null after the last one.
    """

    member_id: int
    generated_date: str
    provisional: bool
    groups: Sequence[Json]
    candidates: Sequence[Json] = Field(description=f"best first; {IN_ORDER}")
    next_offset: int | None

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "memberId": 7,
                "generatedDate": "2026-01-31",
                "provisional": False,
                "groups": [EXAMPLE_GROUP],
                "candidates": [EXAMPLE_CANDIDATE],
                "nextOffset": None,
            }
        }
    )

    @classmethod
    def of(cls, member_id: int, view: bytes, limit: int, offset: int) -> "RecommendationsShape":
        """A page of the cached ``view``; raises ``ValidationError`` where it is none of ours."""
        kept = _KeptView.model_validate_json(view)
        return cls(
            member_id=member_id,
            generated_date=kept.generated_date,
            provisional=kept.provisional,
            groups=kept.groups,
            candidates=kept.candidates[offset : offset + limit],
            next_offset=next_offset(limit, offset, len(kept.candidates)),
        )


def members_router(results: ResultCache) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["members"], dependencies=[KNOWN_ALONE], responses=documented(READ) | away("redis"))
    refusals = not_found("no recommendation is kept for member 7") | too_large("limit", MAX_PAGE)

    @router.get(
        "/members/{member_id}/recommendations", summary="The newest list that is kept for a member", responses=refusals
    )
    async def recommendations(
        member_id: IdInPath,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
        offset: Annotated[int, Query(ge=0, le=MAX_PAGE)] = 0,
    ) -> RecommendationsShape:
        """The member's newest recommendation, or 404 where there is none; nothing is made by asking."""
        view = await results.cached_view(member_id)
        if view is not None:
            try:
                return RecommendationsShape.of(member_id, view, limit, offset)
            except ValidationError:
                pass  # another program wrote it
        raise HTTPException(HTTPStatus.NOT_FOUND, f"no recommendation is kept for member {member_id}")

    return router
