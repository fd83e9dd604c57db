"""Jobs that were given up: looked at, and sent back to work."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field

from api.query import KNOWN_ALONE
from api.refusals import READ, WRITE, away, documented, too_large, wrong_input
from api.shapes import Body, Shape
from core.dead_letter_desk import DeadLetterDesk, DeadLetterNote

MAX_LETTERS = 200
MAX_ID_CHARS = 512
_LetterId = Annotated[str, Field(strict=True, min_length=1, max_length=MAX_ID_CHARS)]


class DeadLetterShape(Shape):
    """A job that was given up: why, its last error, how often it was tried and replayed, and how old it is."""

    letter_id: str
    member_id: int | None
    reason: str
    code: str
    error: str
    n_tries: int
    n_replays: int
    age_s: float | None

    @classmethod
    def of(cls, note: DeadLetterNote) -> "DeadLetterShape":
        """``note`` as answers show it."""
        return cls(
            letter_id=note.letter_id,
            member_id=note.member_id,
            reason=note.reason,
            code=note.code,
            error=note.error,
            n_tries=note.n_tries,
            n_replays=note.n_replays,
            age_s=None if note.age_s is None else round(note.age_s, 3),
        )


class DeadLettersShape(Shape):
    """The oldest dead letters, and how many there are together."""

    letters: Sequence[DeadLetterShape]
    n: int

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "letters": [
                    {
                        "letterId": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
                        "memberId": 7,
                        "reason": "attempts_exhausted",
                        "code": "DEPENDENCY_UNAVAILABLE",
                        "error": "mysql: the connection was refused",
                        "nTries": 4,
                        "nReplays": 0,
                        "ageS": 412.5,
                    }
                ],
                "n": 1,
            }
        }
    )


class ReplayBody(Body):
    """The dead letters to send back to work, by their ids."""

    letter_ids: Annotated[tuple[_LetterId, ...], Field(min_length=1, max_length=MAX_LETTERS)]

    model_config = ConfigDict(json_schema_extra={"example": {"letterIds": ["7c9e6679-7425-40de-944b-e07fc1f90ae7"]}})


class ReplayedShape(Shape):
    """What became of each that was found, by id.

    ``replayed``; ``replayed_before`` or ``succeeded_since``: only taken off; ``no_job``: left where it was.
    """

    fates: Mapping[str, str]

    model_config = ConfigDict(
        json_schema_extra={"example": {"fates": {"7c9e6679-7425-40de-944b-e07fc1f90ae7": "replayed"}}}
    )


def dead_letters_router(desk: DeadLetterDesk) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["dead letters"], dependencies=[KNOWN_ALONE], responses=away("broker"))

    @router.get(
        "/dead-letters",
        summary="The oldest jobs that were given up",
        responses=documented(READ) | too_large("limit", MAX_LETTERS),
    )
    async def oldest(limit: Annotated[int, Query(ge=1, le=MAX_LETTERS)] = 50) -> DeadLettersShape:
        """The oldest dead letters; nothing changes, but while they are read no other reader finds them."""
        page = await desk.oldest(limit)
        return DeadLettersShape(letters=[DeadLetterShape.of(each) for each in page.letters], n=page.n)

    none = wrong_input("letterIds", "needs at least 1", [])

    @router.post(
        "/dead-letters/replay", summary="Send jobs that were given up back to work", responses=documented(WRITE) | none
    )
    async def replay(body: ReplayBody) -> ReplayedShape:
        """Send dead letters back to work, with their tries counted from nothing; what runs is run once."""
        return ReplayedShape(fates=await desk.replay(body.letter_ids))

    return router
