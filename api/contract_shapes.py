"""What the wire contract's routes take and answer: its names to the letter, camelCase or snake_case as each of them is.

Answers are shown here for the OpenAPI document alone: on the way out nothing is checked again. Which columns songs
have, and what the likes are called, the catalogue profile says; those of ``songs`` are shown.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.config import JsonDict

from api.shapes import IN_ORDER, Int64, MemberId, WireModel
from core.question import LOCALES

Json = Mapping[str, object]

EXAMPLE_GROUP: JsonDict = {
    "label": "Bright pop",
    "tagline": "Close to what you like",
    "songs": [
        {
            "title_kr": "비틀비틀 짝짜꿍",
            "title_en": "Wobble Clap",
            "title_jp": None,
            "title_yomi": None,
            "artist": "YENA",
            "artist_kr": "최예나",
            "tj_number": 48231,
            "ky_number": None,
            "song_id": 4711,
            "reason": "Close to “Good Day” by IU, and pop like much of what you like",
            "rank": 1,
            "match_score": 87.2,
        }
    ],
}
EXAMPLE_CANDIDATE: JsonDict = {
    "song_id": 4711,
    "title_kr": "비틀비틀 짝짜꿍",
    "title_en": "Wobble Clap",
    "title_jp": None,
    "title_yomi": None,
    "artist": "YENA",
    "artist_kr": "최예나",
    "genre": "pop, dance",
    "mood": "bright",
    "tj_number": 48231,
    "ky_number": None,
    "recommendation_type": "similar",
    "matched_criteria": ["genre:pop", "near:Good Day", "source:content"],
    "match_score": 87.2,
    "reason": "Close to “Good Day” by IU, and pop like much of what you like",
}


class MemberBody(WireModel):
    """A body that names a member."""

    model_config = ConfigDict(json_schema_extra={"example": {"memberId": 7}})

    member_id: MemberId = Field(alias="memberId")


class LikesBody(MemberBody):
    """A body that names a member and their likes; null, empty or absent: the worker looks them up."""

    model_config = ConfigDict(json_schema_extra={"example": {"memberId": 7, "favorite_song_ids": [11, 12, 13]}})

    favorite_song_ids: tuple[Int64, ...] | None = None


def _known_locale(value: str | None) -> str | None:
    # As in a job message: who writes another string there still gets a list.
    return value if value in LOCALES else None


class RecommendBody(LikesBody):
    """A body that names a member, their likes, and the language of the list's labels and sentences.

    ``locale`` is ``ko``, ``ja`` or ``en``; null, absent or any other string is the site's own, as in a job message.
    """

    model_config = ConfigDict(
        json_schema_extra={"example": {"memberId": 7, "favorite_song_ids": [11, 12, 13], "locale": "en"}}
    )

    locale: Annotated[str | None, AfterValidator(_known_locale)] = None


class RecommendAnswer(WireModel):
    """``completed`` with the date of what is cached, or ``queued`` with a job's id; the other of the two is null."""

    status: Literal["completed", "queued"]
    message: str
    generated_date: str | None = Field(description="yyyy-MM-dd")
    jobId: str | None  # noqa: N815 - the wire's name

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "status": "queued",
                    "message": "The recommendation is being made.",
                    "generated_date": None,
                    "jobId": "4f5d6c1e-7d07-4b5e-9f3e-2f0c2f6f8c11",
                },
                {
                    "status": "completed",
                    "message": "A recommendation of these likes is ready.",
                    "generated_date": "2026-01-31",
                    "jobId": None,
                },
            ]
        }
    )


class CachedView(WireModel):
    """What is kept in ``recommend:{memberId}``, as it stands there, and ``cached``.

    ``provisional``: a language model has yet to be heard. ``fingerprint`` changes with anything that it was made of.
    ``locale``: the language of its sentences.
    """

    cached: Literal[True]
    favorite_song_ids: Sequence[int] = Field((), description="the likes that it was made from")
    groups: Sequence[Json] = Field(description="each with label, tagline and songs")
    candidates: Sequence[Json] = Field(description=f"all songs, best first; {IN_ORDER}")
    generated_date: str = Field(description="yyyy-MM-dd")
    provisional: bool = False
    fingerprint: str = ""
    locale: str = ""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "cached": True,
                "favorite_song_ids": [11, 12, 13],
                "groups": [EXAMPLE_GROUP],
                "candidates": [EXAMPLE_CANDIDATE],
                "generated_date": "2026-01-31",
                "provisional": False,
                "fingerprint": "b1946ac92492d2347c6235b4d2611184",
                "locale": "ko",
            }
        }
    )


class QueuedAnswer(WireModel):
    """A job will come of it."""

    status: Literal["queued"]

    model_config = ConfigDict(json_schema_extra={"example": {"status": "queued"}})


class WarmAnswer(QueuedAnswer):
    """``task_id`` is the trace id of all jobs that come of it."""

    task_id: str

    model_config = ConfigDict(
        json_schema_extra={"example": {"task_id": "8d3f1a52-9a0e-4c55-b1de-51f0a3f2c6de", "status": "queued"}}
    )
