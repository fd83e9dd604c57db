"""A recommendation from chosen items: at once without a language model, or as a job with one."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, ConfigDict, Field

from api.query import KNOWN_ALONE
from api.recommendations import JobDesk
from api.refusals import WRITE, away, documented, wrong_input
from api.responses import json_response
from api.shapes import EXAMPLE_ITEM, IN_ORDER, MAX_SEEDS, MIN_SEEDS, Body, Int64, ItemShape, MemberId, Shape
from core.result_document import match_score
from core.seeds import SeedAnswer, SeedRecommender, UnknownSeeds, context_of, nobody
from models.recommendation import Candidate, TasteSummary

MAX_WISH_CHARS = 200
MAX_DISLIKED = 100
_SOURCE = "seeds"
_OF_THE_MEMBER = "is not for a job, which knows what its member refused: send events of type dislike, or no explain"
_NO_SUCH_ITEM = "there is no such item to recommend from"


def _each_once(item_ids: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(item_ids)) != len(item_ids):
        raise ValueError("each item may be named once")
    return item_ids


_Seeds = Annotated[
    tuple[Int64, ...],
    Field(min_length=MIN_SEEDS, max_length=MAX_SEEDS, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_each_once),
]


class SeedsBody(Body):
    """3 to 10 items that somebody chose.

    ``wish``: what they want to hear now, in their own words. With ``explain`` a job is made, for ``memberId`` or for
    nobody in particular. ``dislikedIds``: what they refused, and what is like it comes further down; not with
    ``explain``, for a job knows that of its member's events.
    """

    item_ids: _Seeds
    disliked_ids: Annotated[tuple[Int64, ...], Field(max_length=MAX_DISLIKED)] = ()
    limit: Annotated[int, Field(strict=True, ge=1, le=100)] = 20
    locale: Literal["ko", "ja", "en"] | None = None
    wish: Annotated[str, Field(strict=True, max_length=MAX_WISH_CHARS)] | None = None
    explain: Annotated[bool, Field(strict=True)] = False
    member_id: MemberId | None = None

    model_config = ConfigDict(
        json_schema_extra={"example": {"itemIds": [11, 12, 13, 14, 15], "limit": 10, "locale": "en"}}
    )


class EvidenceShape(Shape):
    """What speaks for an item; ``near``: the chosen items that it is close to, ``sources``: what found it."""

    similarity: float
    near: Sequence[int]
    shared_genres: Sequence[str]
    shared_moods: Sequence[str]
    same_creator: bool
    sources: Sequence[str]
    discovery: str | None


class RecommendedShape(Shape):
    """One recommended item; ``score`` runs from 0 to 100."""

    item: ItemShape
    score: float
    type: str
    reason: str
    evidence: EvidenceShape

    @classmethod
    def of(cls, candidate: Candidate, reasons: Mapping[int, str]) -> "RecommendedShape":
        """``candidate`` as answers show it."""
        evidence = candidate.evidence
        return cls(
            item=ItemShape.of(candidate.item),
            score=match_score(candidate),
            type=candidate.kind.value,
            reason=reasons[candidate.item.item_id],
            evidence=EvidenceShape(
                similarity=round(float(evidence.similarity), 4),
                near=[item.item_id for item in evidence.near],
                shared_genres=evidence.shared_genres,
                shared_moods=evidence.shared_moods,
                same_creator=evidence.same_creator,
                sources=evidence.sources,
                discovery=evidence.discovery.value if evidence.discovery else None,
            ),
        )


class TasteShape(Shape):
    """What the chosen items have in common."""

    genres: Sequence[str]
    moods: Sequence[str]
    creators: Sequence[str]
    summary: str

    @classmethod
    def of(cls, taste: TasteSummary) -> "TasteShape":
        """``taste`` as answers show it."""
        return cls(
            genres=taste.preferred_genres,
            moods=taste.preferred_moods,
            creators=taste.favorite_creators,
            summary=taste.overall_taste,
        )


class SeedsShape(Shape):
    """The best items, best first, the taste that they were chosen by, and the chosen items themselves."""

    items: Sequence[RecommendedShape] = Field(description=f"best first; {IN_ORDER}")
    taste: TasteShape
    seeds: Sequence[ItemShape]
    locale: str

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "items": [
                    {
                        "item": EXAMPLE_ITEM,
                        "score": 87.2,
                        "type": "similar",
                        "reason": "Close to “Good Day” by IU, and pop like much of what you chose",
                        "evidence": {
                            "similarity": 0.81,
                            "near": [11],
                            "sharedGenres": ["pop"],
                            "sharedMoods": [],
                            "sameCreator": False,
                            "sources": ["content"],
                            "discovery": None,
                        },
                    }
                ],
                "taste": {"genres": ["pop"], "moods": ["bright"], "creators": ["IU"], "summary": "Mostly pop"},
                "seeds": [{**EXAMPLE_ITEM, "itemId": 11}],
                "locale": "en",
            }
        }
    )

    @classmethod
    def of(cls, answer: SeedAnswer) -> "SeedsShape":
        """``answer`` as answers show it."""
        return cls(
            items=[RecommendedShape.of(each, answer.reasons) for each in answer.candidates],
            taste=TasteShape.of(answer.taste),
            seeds=[ItemShape.of(item) for item in answer.seeds],
            locale=answer.locale,
        )


class QueuedShape(Shape):
    """A job that was put on the queue; ``/jobs/{jobId}`` says how it stands."""

    job_id: str
    status: Literal["queued"] = "queued"

    model_config = ConfigDict(
        json_schema_extra={"example": {"jobId": "4f5d6c1e-7d07-4b5e-9f3e-2f0c2f6f8c11", "status": "queued"}}
    )


def seeds_router(recommender: SeedRecommender, desk: JobDesk) -> APIRouter:
    """The route."""
    unknown = wrong_input("itemIds", _NO_SUCH_ITEM, 4711)
    router = APIRouter(
        tags=["recommendations"], dependencies=[KNOWN_ALONE], responses=documented(WRITE) | away("mysql") | unknown
    )
    queued: dict[int | str, dict[str, Any]] = {
        HTTPStatus.ACCEPTED.value: {"model": QueuedShape, "description": "A job was put on the queue"}
    }

    @router.post(
        "/recommend/seeds", summary="A list from 3 to 10 chosen items", response_model=SeedsShape, responses=queued
    )
    async def recommend_from_seeds(body: SeedsBody) -> Response | SeedsShape:
        """What is like 3 to 10 chosen items, with reasons, at once and without a language model.

        The best come first in an order that keeps variety; each ``score`` is the item's own match, so scores need not
        fall from item to item.

        ``explain`` puts a job on the queue instead, which asks the language model too, and answers 202 with its id.
        """
        try:
            if not body.explain:
                answer = await recommender.recommend(
                    body.item_ids,
                    body.limit,
                    locale=body.locale,
                    wish=body.wish,
                    disliked_ids=body.disliked_ids,
                )
                return SeedsShape.of(answer)
            if body.disliked_ids:
                raise _refused("dislikedIds", _OF_THE_MEMBER, list(body.disliked_ids))
            await recommender.check(body.item_ids)
        except UnknownSeeds as error:
            raise _refused("itemIds", _NO_SUCH_ITEM, *error.item_ids) from error
        job = await desk.submit(
            nobody(body.item_ids) if body.member_id is None else body.member_id,
            body.item_ids,
            _SOURCE,
            top_k=body.limit,
            locale=body.locale,
            context=context_of(body.wish),
        )
        response = json_response({"jobId": job.job_id, "status": "queued"}, status_code=HTTPStatus.ACCEPTED)
        response.headers["Location"] = f"/jobs/{job.job_id}"
        return response

    return router


def _refused(field: str, problem: str, *values: object) -> RequestValidationError:
    return RequestValidationError(
        [{"type": "value_error", "loc": ("body", field), "msg": problem, "input": value} for value in values]
    )
