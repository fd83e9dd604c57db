"""How much each thing that members do says of their taste: the one table of it, in the catalogue profile."""

from pydantic import BaseModel, ConfigDict, Field


class SignalStrengths(BaseModel):
    """Beside 1 for a like; below 0: against an item, and against what is like it.

    What is done says less than what is said: a play may be the radio's choice, but an item asked for again is nobody
    else's. Done n times it counts 1 + log2(n) times.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    play: float = Field(0.2, description="to the end")
    partial_play: float = Field(0.05, description="of at least min_play_s, not to the end")
    repeat: float = 0.5
    high_rating: float = Field(1.0, description="the last rating, of high_from or more")
    low_rating: float = Field(-0.5, description="the last rating, below low_below")
    skip: float = -0.2
    dislike: float = Field(-1.0, le=0)
    high_from: float = Field(4.0, description="of five stars, as most sites have them")
    low_below: float = 3.0
    min_play_s: float = Field(30.0, ge=0)
