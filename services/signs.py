"""Rows of events as signs of taste: which of them tell anything, and what they are called then."""

from typing import Any

import sqlalchemy as sa

from config.signal_strengths import SignalStrengths
from services.schema import interaction

PLAY, PARTIAL_PLAY, SKIP, REPEAT, PLAYLIST_ADD = "play", "partial play", "skip", "repeat", "playlist_add"
RATING, HIGH_RATING, LOW_RATING = "rating", "high rating", "low rating"
RATINGS = (RATING, HIGH_RATING, LOW_RATING)


def strength_by_kind(strengths: SignalStrengths) -> dict[str, float]:
    """What each kind of sign says; a rating in the middle says nothing."""
    return {
        PLAY: strengths.play,
        PARTIAL_PLAY: strengths.partial_play,
        REPEAT: strengths.repeat,
        SKIP: strengths.skip,
        HIGH_RATING: strengths.high_rating,
        LOW_RATING: strengths.low_rating,
    }


def is_sign(strengths: SignalStrengths) -> sa.ColumnElement[bool]:
    """The condition that an event is a sign."""
    events = interaction.c
    long_enough = sa.or_(events.completed, events.value >= strengths.min_play_s)
    return sa.or_(
        events.type.in_((REPEAT, PLAYLIST_ADD, SKIP)),
        sa.and_(events.type == PLAY, long_enough),
        sa.and_(events.type == RATING, events.value.is_not(None)),
    )


def kind_of_sign(strengths: SignalStrengths) -> sa.Case[Any]:
    """The kind of an event: its type, but for partial plays and for ratings that are high or low."""
    events = interaction.c
    is_rating = events.type == RATING
    return sa.case(
        (sa.and_(events.type == PLAY, sa.not_(sa.func.coalesce(events.completed, sa.false()))), PARTIAL_PLAY),
        (sa.and_(is_rating, events.value >= strengths.high_from), HIGH_RATING),
        (sa.and_(is_rating, events.value < strengths.low_below), LOW_RATING),
        else_=events.type,
    )
